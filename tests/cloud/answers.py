"""Answers of the API, as its page shows them."""

from __future__ import annotations

VM: dict[str, object] = {
    "id": "9e0a7c44-2222-4f0b-b1a9-7d2e6c8f5505",
    "project_id": "77aa0c5e-3333-4d0e-9c55-1b2f3a4d6606",
    "type": "l40s-48gb.1x",
    "state": "STATE_RUNNING",
    "ssh_destination": ":0",
    "created_at": "2026-02-03T10:15:00Z",
    "updated_at": "2026-02-03T10:15:12Z",
    "name": "as1-llama-7f3a9c",
    "location": "us-east1-a",
    "commitment_period": 0,
    "commitment_end": "",
    "disks": [
        {
            "id": "1c2d3e4f-4444-4a1b-8c6d-5e6f7a8b7707",
            "name": "OS-disk-9e0a7c44-2222-4f0b-b1a9-7d2e6c8f5505",
            "type": "persistent-ssd",
            "size": "128GiB",
            "location": "vaeq-cu",
            "block_size": 0,
            "attachment_type": "os",
            "mode": "read-write",
        }
    ],
    "network_interfaces": [
        {
            "id": "2d3e4f50-5555-4b2c-9d7e-6f7a8b9c8808",
            "name": "default-network-interface",
            "network": "3e4f5061-6666-4c3d-8e8f-7a8b9c0d9909",
            "subnet": "4f506172-7777-4d4e-9f90-8b9c0d1e0a10",
            "interface_type": "Ethernet",
            "mac_address": "2e:00:00:00:00:01",
            "ips": [
                {
                    "private_ipv4": {"address": "172.27.16.9"},
                    "public_ipv4": {"address": "203.0.113.24", "id": "5", "type": "dynamic"},
                }
            ],
        }
    ],
    "host_channel_adapters": [],
    "virtualization_features": {"nested_virtualization": False},
    "reservation_id": "",
}

CREATED: dict[str, object] = {
    "operation": {
        "operation_id": "c1a8b0de-1111-4c52-a2f7-6a3c5b9d4404",
        "state": "IN_PROGRESS",
        "metadata": {
            "operation_name": "CREATE",
            "id": "9e0a7c44-2222-4f0b-b1a9-7d2e6c8f5505",
            "type": "vm",
            "request": {"name": "as1-llama-7f3a9c", "type": "l40s-48gb.1x"},
        },
        "result": None,
        "started_at": "2026-02-03T10:15:00Z",
        "completed_at": "",
    }
}

OPERATION: dict[str, object] = {
    "operation_id": "c1a8b0de-1111-4c52-a2f7-6a3c5b9d4404",
    "state": "SUCCEEDED",
    "metadata": {
        "operation_name": "CREATE",
        "id": "9e0a7c44-2222-4f0b-b1a9-7d2e6c8f5505",
        "type": "vm",
        "request": {"name": "as1-llama-7f3a9c", "startup_script": "canary-script"},
    },
    "result": {"id": "9e0a7c44-2222-4f0b-b1a9-7d2e6c8f5505", "state": "STATE_RUNNING"},
    "started_at": "2026-02-03T10:15:00Z",
    "completed_at": "2026-02-03T10:15:12Z",
}
