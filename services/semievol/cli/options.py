"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Cluster:
    """A release on Kubernetes. Empty: as the kubeconfig says, and the only release."""

    context: str = ""
    namespace: str = ""
    kubeconfig: str = ""
    release: str = ""


@dataclass(frozen=True)
class Target:
    """Which controller is meant: the one at `address`, or the one in `cluster`, or else the one of `home`, over `store` if that is given."""

    home: Path
    address: str
    store: str = ""
    cluster: Cluster | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether it is reached over a network, and has nothing to do with `home`."""
        return bool(self.address or self.cluster)


def _expanded(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    return value.expanduser().absolute()


home_option = click.option(
    "--home",
    envvar="SEMIEVOL_HOME",
    show_envvar=True,
    type=click.Path(path_type=Path, file_okay=False),
    default="~/.semievol",
    show_default=True,
    callback=_expanded,
    help="Directory that keeps runs, artifacts and prepared models.",
)
store_option = click.option(
    "--store",
    envvar="SEMIEVOL_STORE",
    show_envvar=True,
    metavar="URI",
    default="",
    help="Artifact store: s3://BUCKET[/PREFIX], a directory, or `embedded`. Default: what --home was last started with, else a directory in it.",
)
milvus_option = click.option(
    "--milvus",
    envvar="SEMIEVOL_MILVUS",
    show_envvar=True,
    metavar="URI",
    default="",
    help="Milvus: http://HOST:PORT, a path ending in .db, or `embedded`. Default: as for --store.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
launcher_option = click.option(
    "--launcher",
    type=click.Choice(["inline", "subprocess"]),
    default="inline",
    show_default=True,
    help="Run steps in threads of this process, or in processes of their own.",
)
run_file_option = click.option(
    "-f",
    "--file",
    "run_file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The run file (docs/run-file.md).",
)
_address_option = click.option(
    "--address",
    envvar="SEMIEVOL_CONTROLLER",
    show_envvar=True,
    metavar="HOST:PORT",
    default="",
    help="A controller elsewhere. Default: the one of --home.",
)


_cluster_options = (
    click.option(
        "--context",
        envvar="SEMIEVOL_CONTEXT",
        show_envvar=True,
        metavar="NAME",
        default="",
        help="A release on Kubernetes: the kubeconfig's context. Default, with --namespace: the current one.",
    ),
    click.option(
        "-n",
        "--namespace",
        envvar="SEMIEVOL_NAMESPACE",
        show_envvar=True,
        metavar="NAME",
        default="",
        help="A release on Kubernetes: its namespace. Default, with --context: the context's.",
    ),
    click.option(
        "--kubeconfig",
        type=click.Path(exists=True, dir_okay=False),
        help="A release on Kubernetes: the kubeconfig. Default, with --context or --namespace: KUBECONFIG, else ~/.kube/config.",
    ),
    click.option(
        "--release",
        envvar="SEMIEVOL_RELEASE",
        show_envvar=True,
        metavar="NAME",
        default="",
        help="Which release, where a namespace has several.",
    ),
)
_CLUSTER_NAMES = ("context", "namespace", "kubeconfig")  # those that ask for a cluster


def target_options(command: F) -> F:
    """--home, --store, --address and those of a cluster, given to the command as `target`."""

    @functools.wraps(command)
    def wrapper(
        *args: Any,
        home: Path,
        store: str,
        address: str,
        context: str,
        namespace: str,
        kubeconfig: str | None,
        release: str,
        **kwargs: Any,
    ) -> Any:
        wanted = Cluster(context, namespace, kubeconfig or "", release)
        cluster = wanted if any(getattr(wanted, name) for name in _CLUSTER_NAMES) else None
        if address and cluster:
            address, cluster = _one_of(address, cluster)
        return command(*args, target=Target(home, address, store, cluster), **kwargs)

    for option in reversed(_cluster_options):
        wrapper = option(wrapper)
    return home_option(store_option(_address_option(wrapper)))  # type: ignore[return-value]


def _one_of(address: str, cluster: Cluster) -> tuple[str, Cluster | None]:
    """What is typed counts more than what the environment says; an address more than a cluster. Raises UsageError: both are typed."""
    current = click.get_current_context()

    def typed(name: str) -> bool:
        return bool(current.params.get(name)) and current.get_parameter_source(name) is ParameterSource.COMMANDLINE

    cluster_typed = any(typed(name) for name in _CLUSTER_NAMES)
    if typed("address") and cluster_typed:
        raise click.UsageError(
            "--address names a controller, --context and --namespace a release on Kubernetes: give one of them."
        )
    return ("", cluster) if cluster_typed else (address, None)
