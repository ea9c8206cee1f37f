"""Ranks runs and shows their samples side by side: `python compare.py checkpoints/*`."""

import argparse
import os
from pathlib import Path

from artgan.errors import plain_errors, printable
from artgan.options import MONITORS


def main() -> None:
    parser = argparse.ArgumentParser("python compare.py", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--by", choices=MONITORS, help="figure; by default the first there is")
    parser.add_argument("--out", type=Path, metavar="FILE", help="page; by default beside the runs")
    arguments = parser.parse_args()
    with plain_errors():
        # Imported only now, so that --help and mistakes answer at once.
        from artgan.comparison import PAGE, differences, ranking, read_runs, table, write_page

        runs = read_runs(arguments.runs)
        groups, different = ranking(runs, arguments.by), differences(runs)
        beside = Path(os.path.commonpath([run.folder.absolute().parent for run in runs]))
        page = arguments.out or beside / PAGE
        print(table(groups, different))
        write_page(groups, different, page)
        print(f"Side by side: {printable(str(page))}")


if __name__ == "__main__":
    main()
