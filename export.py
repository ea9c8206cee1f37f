"""Hands on a trained generator as safetensors: `python export.py ckpt=checkpoints/RUN`."""

from artgan.options import Command, ExportConfig, launch


def main(config: ExportConfig, command: Command) -> None:
    # Imported only now, so that --help, --cfg and mistakes answer at once.
    from artgan.export import export

    print(export(config))


if __name__ == "__main__":
    launch(ExportConfig, "export", main)
