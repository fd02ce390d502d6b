"""The command line; `freqrob --help` lists the commands.

Only the imports that `--help` needs are at the top level; commands import torch when they run.
"""

from freqrob.cli.app import app
from freqrob.cli.corruptions import corruptions
from freqrob.cli.dataset import dataset_group
from freqrob.cli.demo import demo
from freqrob.cli.diagnose import DiagnoseCommand, diagnose
from freqrob.cli.evaluate import evaluate
from freqrob.cli.export import export
from freqrob.cli.models import doctor, models
from freqrob.cli.options import with_home
from freqrob.cli.report import report
from freqrob.cli.reproduce import reproduce
from freqrob.cli.train import recipes, train
from freqrob.runtime import cache, threads
from freqrob.runtime.terminal import lenient_output

for command in (demo, train, recipes, evaluate, corruptions, diagnose, report, reproduce, models, export, doctor):
    app.command(cls=DiagnoseCommand if command is diagnose else None)(with_home(command))
app.add_typer(dataset_group, name="dataset")


def main() -> None:
    """The console script `freqrob`."""
    threads.set_defaults()
    cache.set_matplotlib_folder()
    with lenient_output():
        app()
