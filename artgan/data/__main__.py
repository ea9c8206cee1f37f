"""Tells what is in a folder of paintings: `python -m artgan.data PATH`."""

import argparse
from pathlib import Path

from artgan.data.checkup import REPORT, read_record
from artgan.data.inspection import check_folder
from artgan.data.pack import prepared
from artgan.errors import plain_errors, printable

SHOWN = 5


def main() -> None:
    parser = argparse.ArgumentParser("python -m artgan.data", description=__doc__)
    parser.add_argument("root", type=Path, metavar="PATH", help="folder, searched recursively")
    root = parser.parse_args().root.expanduser()
    with plain_errors(), prepared(root) as (folder, found):
        checkup = check_folder(root, folder, found, read_record(folder))
        print(checkup.summary())
        for facts in checkup.unusable[:SHOWN]:
            print(f"  {printable(facts.file)}: {facts.reason}")
        print(f"Report: {printable(str(folder / REPORT))}")


if __name__ == "__main__":
    main()
