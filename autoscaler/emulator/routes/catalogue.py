"""What may be rented: availabilities, specs, images, locations."""

from __future__ import annotations

from uuid import NAMESPACE_URL, uuid5

from autoscaler.emulator.catalogue import Image, MachineType
from autoscaler.emulator.cloud import Cloud
from autoscaler.emulator.faults import Subject
from autoscaler.emulator.http import Answer, Call, Route, json_answer, not_found
from autoscaler.emulator.shapes import Json


def routes(cloud: Cloud) -> list[Route]:
    """The catalogue's endpoints."""
    catalogue = cloud.books.catalogue

    def availabilities(call: Call) -> Answer:
        names = comma_list(call, "product_name")
        locations = comma_list(call, "location")
        items = [
            {"type": name, "location": location, "available": _said(cloud, name, location, left)}
            for (name, location), left in cloud.books.stock.items()
            if (not names or name in names) and (not locations or location in locations)
        ]
        return json_answer({"items": items})

    def specs(call: Call) -> Answer:
        locations = comma_list(call, "location")
        return json_answer(
            {
                "items": [
                    _spec(machine_type, catalogue.os_disk_gb)
                    for machine_type in catalogue.types.values()
                    if machine_type.in_specs
                    and (not locations or not locations.isdisjoint(machine_type.stock))
                ]
            }
        )

    def images(call: Call) -> Answer:
        groups = comma_list(call, "product_group")
        wanted = [one for one in catalogue.types.values() if one.name.partition(".")[0] in groups]
        fitting = [
            image
            for image in catalogue.images.values()
            if not groups or any(image.boots_on(one) for one in wanted)
        ]
        return json_answer({"items": [_image(image) for image in fitting]})

    def image(call: Call) -> Answer:
        for one in catalogue.images.values():
            if image_id(one) == call.params["image_id"]:
                return json_answer(_image(one))
        raise not_found("image")

    def locations(_: Call) -> Answer:
        return json_answer({"items": list(catalogue.locations)})

    root = "/projects/{project_id}"
    return [
        Route("GET", f"{root}/availabilities", "availabilities", availabilities),
        Route("GET", f"{root}/specs", "specs", specs),
        Route("GET", f"{root}/images", "images", images),
        Route("GET", f"{root}/images/{{image_id}}", "image", image),
        Route("GET", f"{root}/locations", "locations", locations),
    ]


def comma_list(call: Call, key: str) -> frozenset[str]:
    """A query's comma list; empty if not given."""
    return frozenset(filter(None, call.request.query.get(key, "").split(",")))


def _said(cloud: Cloud, name: str, location: str, left: int) -> bool:
    subject = Subject(call="availabilities", type=name, location=location)
    if cloud.faults.take("stock_said", subject) is not None:
        return True
    if cloud.faults.take("stock_denied", subject) is not None:
        return False
    return left > 0


def _spec(machine_type: MachineType, os_disk_gb: int) -> Json:
    gpu = machine_type.gpu
    return {
        "product_name": machine_type.name,
        "description": gpu.description if gpu else "CPU only",
        "cpu_cores": machine_type.vcpu,
        "cpu_type": "vCPU",
        "memory_gb": machine_type.ram_gb,
        "memory_type": "ram",
        "disk_gb": machine_type.nvme_gb or os_disk_gb,
        "disk_type": "SSD",
        "num_gpu": machine_type.gpus,
        "gpu_type": gpu.gpu_type if gpu else "",
    }


def image_id(image: Image) -> str:
    """An id that a name always has."""
    return str(uuid5(NAMESPACE_URL, f"image/{image.name}"))


def _image(image: Image) -> Json:
    return {
        "id": image_id(image),
        "name": image.name,
        "description": image.description,
        "tags": list(image.tags),
        "created_at": image.created_at,
        "locations": list(image.locations),
    }
