"""All commands, in the order in which `--help` shows them."""

from __future__ import annotations

import typer

from autoscaler.cli.adopt import adopt
from autoscaler.cli.audit import audit
from autoscaler.cli.cloud import cloud_app
from autoscaler.cli.cost import cost
from autoscaler.cli.demo import demo
from autoscaler.cli.doctor import doctor
from autoscaler.cli.emulator import emulator
from autoscaler.cli.gateway import gateway
from autoscaler.cli.init import init
from autoscaler.cli.keys import keys_app
from autoscaler.cli.nodes import events, nodes
from autoscaler.cli.offers import offers
from autoscaler.cli.panic import panic
from autoscaler.cli.render_script import render_script
from autoscaler.cli.run import run, validate
from autoscaler.cli.schema import schema
from autoscaler.cli.simulate import simulate
from autoscaler.cli.status import status
from autoscaler.cli.thought import explain, plan
from autoscaler.cli.trace import trace_app
from autoscaler.cli.trial import trial
from autoscaler.cli.tunnels import tunnels
from autoscaler.cli.verbs import (
    confirm,
    demote,
    drain,
    pause,
    promote,
    resume,
    retire,
    scale,
    sweep,
)

app = typer.Typer(
    name="autoscaler",
    help="Rents GPU machines on demand so that models are served within their latency target.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    add_completion=False,
)
for command in (
    demo,
    init,
    doctor,
    run,
    validate,
    status,
    nodes,
    events,
    explain,
    plan,
    cost,
    offers,
    simulate,
    promote,
    demote,
    confirm,
    pause,
    resume,
    scale,
    drain,
    retire,
    sweep,
    adopt,
    audit,
    panic,
    trial,
    render_script,
    schema,
    gateway,
    tunnels,
    emulator,
):
    app.command(name=command.__name__.replace("_", "-"))(command)
app.add_typer(keys_app, name="keys")
app.add_typer(cloud_app, name="cloud")
app.add_typer(trace_app, name="trace")
