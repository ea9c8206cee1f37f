"""Paints with a trained generator: `python sample.py ckpt=checkpoints/RUN`."""

from artgan.options import Command, SampleConfig, launch


def main(config: SampleConfig, command: Command) -> None:
    # Imported only now, so that --help, --cfg and mistakes answer at once.
    from artgan.sampling import sample

    first, *others = sample(config)
    print(first if not others else f"{first} and {len(others)} more beside it")


if __name__ == "__main__":
    launch(SampleConfig, "sample", main)
