"""Write a run for VLMEvalKit's scorers: ``python recipes/export_vlmevalkit.py --help`` lists the options."""

from omegaconf import DictConfig

from tinyvid.command_line import CommandLine, run_hydra
from tinyvid.errors import ConfigError
from tinyvid.evaluation.reporting.vlmevalkit import export_run

REQUIRED = ("run", "name", "out")


def main(config: DictConfig, _: CommandLine) -> None:
    """Export the run given on the command line."""
    for key in REQUIRED:
        if not config[key]:
            raise ConfigError(
                f"{key}= is missing; run: python recipes/export_vlmevalkit.py run=runs/mine name=my-model out=DIR"
            )
    print(f"Wrote {export_run(config.run, config.out, model=config.name)}")


if __name__ == "__main__":
    run_hydra(main, config="export_vlmevalkit")
