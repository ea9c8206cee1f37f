"""Repaints a photo like a painting: `python stylize.py content=PHOTO style=PAINTING`."""

from artgan.config import Command, StylizeConfig, launch


def main(config: StylizeConfig, command: Command) -> None:
    # Imported only now, so that --help, --cfg and mistakes answer at once.
    from artgan.style.run import repaint

    print(repaint(config, command.overrides))


if __name__ == "__main__":
    launch(StylizeConfig, "stylize", main)
