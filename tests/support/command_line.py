"""The command line, through Typer's runner."""

from typer.testing import CliRunner

from freqrob import cli


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def error_of(*arguments):
    """The one line that a user sees."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output
