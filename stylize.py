"""Repaints a photo like a painting: `python stylize.py content=PHOTO style=PAINTING`."""

import re

from artgan.options import Command, StylizeConfig, launch


def main(config: StylizeConfig, command: Command) -> None:
    # Imported only now, so that --help, --cfg and mistakes answer at once.
    from artgan.style.batch import repaint

    given = {re.split("[=@]", override.lstrip("+"))[0] for override in command.overrides}
    first, *others = repaint(config, given)
    print(first if not others else f"{first} and {len(others)} more beside it")


if __name__ == "__main__":
    launch(StylizeConfig, "stylize", main)
