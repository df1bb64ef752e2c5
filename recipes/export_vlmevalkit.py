"""Write a run for VLMEvalKit's scorers: ``python recipes/export_vlmevalkit.py --help`` lists the options."""

from omegaconf import DictConfig

from tinyvid.command_line import CommandLine, run_hydra
from tinyvid.errors import ConfigError
from tinyvid.evaluation.reporting.vlmevalkit import export_run

FREE_TEXT = ("run", "name", "out")


def main(_: DictConfig, line: CommandLine) -> None:
    """Export the run given on the command line."""
    for key in FREE_TEXT:
        if not line.text.get(key):
            raise ConfigError(
                f"{key}= is missing; run: python recipes/export_vlmevalkit.py run=runs/mine name=my-model out=DIR"
            )
    print(f"Wrote {export_run(line.text['run'], line.text['out'], model=line.text['name'])}")


if __name__ == "__main__":
    run_hydra(main, config="export_vlmevalkit", free_text=FREE_TEXT)
