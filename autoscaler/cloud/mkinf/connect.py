"""From the config's `[cloud]` to a client and a `Cloud` of it."""

from __future__ import annotations

from autoscaler.clock import Clock, SystemClock
from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.credentials import AccessKey, Credential, Password, SecretFile
from autoscaler.cloud.mkinf.offers import ImageNames
from autoscaler.cloud.mkinf.prices import load_prices
from autoscaler.cloud.mkinf.settings import MkinfSettings
from autoscaler.config import CloudSettings
from autoscaler.errors import ConfigError


def open_client(cloud: CloudSettings, clock: Clock | None = None) -> MkinfClient:
    """Make the client. The credential is read now, so that a bad file is refused at the start.

    Raises:
        ConfigError: the credential's file, the URL or the CA file is not fit for use.
    """
    credential = _credential(cloud)
    credential.read()
    return MkinfClient(settings_of(cloud), credential, clock=clock)


def settings_of(cloud: CloudSettings) -> MkinfSettings:
    """How the client reaches the cloud of this config. Raises `ConfigError` for a bad URL."""
    return MkinfSettings(
        url=cloud.url,
        project_id=cloud.project,
        connect_timeout_s=cloud.connect_timeout.total_seconds(),
        answer_timeout_s=cloud.answer_timeout.total_seconds(),
        create_timeout_s=cloud.create_timeout.total_seconds(),
        requests_per_s=cloud.requests_per_s,
        in_flight=cloud.in_flight,
        ca_file=cloud.ca_file,
    )


def open_cloud(cloud: CloudSettings, clock: Clock | None = None) -> MkinfCloud:
    """Make the `Cloud`. Raises as `open_client` does, and `ConfigError` for a bad price list."""
    clock = clock or SystemClock()
    images = ImageNames(cloud.image_pcie, cloud.image_sxm, cloud.image_cpu)
    prices = load_prices(cloud.prices_file)
    return MkinfCloud(open_client(cloud, clock), prices, images, clock)


def _credential(cloud: CloudSettings) -> Credential:
    if cloud.key_file is not None:
        return AccessKey(SecretFile(cloud.key_file))
    if cloud.email is None or cloud.password_file is None:
        raise ConfigError("cloud: give key_file, or email and password_file")
    return Password(cloud.email, SecretFile(cloud.password_file))
