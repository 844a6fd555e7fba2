"""`tandem render`: a job spec as the files of what runs it. Nothing is applied."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.command import WRONG, KubeRay, Overrides, Spec, told

render = typer.Typer(no_args_is_help=True, help="Write the files of what runs a job, out of its spec.")


def add_to(app: typer.Typer) -> None:
    """Adds the group to `tandem`."""
    app.add_typer(render, name="render")


@render.command()
def kubernetes(
    spec: Spec,
    kind: Annotated[KubeRay, typer.Option(help="A cluster that comes and goes with the job, or one that stays.")] = (
        KubeRay.RAYJOB
    ),
    overrides: Overrides = [],  # noqa: B006 - typer reads it
) -> None:
    """Print the job's Kubernetes objects, for `kubectl apply -f -`.

    KubeRay runs them; its operator must be there. What the spec does not say otherwise, such as the image, is its
    section cluster.kubernetes.
    """
    with told(WRONG):
        from jobspecs.load import load
        from orchestrator.kubernetes import cluster_objects, job_objects, to_yaml

        objects = {KubeRay.RAYJOB: job_objects, KubeRay.RAYCLUSTER: cluster_objects}[kind]
        rendered = to_yaml(objects(load(spec, tuple(overrides))))
    print(rendered, end="")


@render.callback()
def _renders() -> None:
    """A callback keeps `kubernetes` a command of its own while it is the only one."""
