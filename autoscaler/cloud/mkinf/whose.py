"""Which project and which organization is meant, of those that the credential reaches. Pure."""

from __future__ import annotations

from autoscaler.cloud.mkinf.values import Listing, Organization, Project
from autoscaler.errors import ConfigError


def only_project(projects: Listing[Project]) -> str:
    """The id of the one project there is.

    Raises:
        ConfigError: there are several, or none, or not all are known.
    """
    if len(projects) != 1 or not projects.complete:
        raise ConfigError(
            f"{len(projects)} mkinf projects are yours: put the id of one into the config"
            " as cloud.project (`autoscaler cloud projects` lists them)"
        )
    return projects.items[0].id


def project_named(name: str, projects: Listing[Project]) -> str:
    """The id of the project of that name or id; the name itself, taken for an id, where none is told.

    Raises:
        ConfigError: there are others, or several of that name.
    """
    found = {project.id for project in projects if name in (project.id, project.name)}
    if len(found) > 1 or (not found and len(projects)):
        known = ", ".join(f"{project.name} ({project.id})" for project in projects)
        many = "several projects are" if found else "no project that the key reaches is"
        raise ConfigError(f"cloud.project: {many} called {name!r}: put an id; there are {known}")
    return next(iter(found), name)


def only_organization(organizations: Listing[Organization]) -> str:
    """The id of the one organization there is.

    Raises:
        ConfigError: there are several, or none.
    """
    if len(organizations) != 1:
        raise ConfigError(
            f"{len(organizations)} organizations are yours: say which"
            " (`autoscaler cloud organizations` lists them)"
        )
    return organizations.items[0].id
