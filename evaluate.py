"""Measures how well a run paints: `python evaluate.py ckpt=checkpoints/RUN`."""

from artgan.options import Command, EvaluateConfig, launch


def main(config: EvaluateConfig, command: Command) -> None:
    # Imported only now, so that --help, --cfg and mistakes answer at once.
    from artgan.evaluation import evaluate, table

    figures, folder = evaluate(config)
    print(table(figures))
    print(folder)


if __name__ == "__main__":
    launch(EvaluateConfig, "evaluate", main)
