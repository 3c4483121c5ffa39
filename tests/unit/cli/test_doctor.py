"""Looking at the machine."""

from __future__ import annotations

import json


def test_doctor_looks_at_everything(project):
    result = project("doctor", "--json")
    assert result.exit_code == 0
    lines = {line["what"]: line for line in json.loads(result.stdout)}
    assert {"python", "sqlite", "event loop", "disk", "clock"} <= lines.keys()
    assert lines["connector nats"]["ok"]
    assert lines["python"]["ok"] and lines["sqlite"]["ok"]


def test_doctor_tells_a_connector_that_cannot_be_imported(project, monkeypatch):
    from importlib import metadata

    broken = metadata.EntryPoint("odd", "nowhere_at_all", "streamflow.connectors")
    monkeypatch.setattr(metadata, "entry_points", lambda **_: [broken])
    result = project("doctor")
    assert result.exit_code == 0
    assert "connector odd" in result.stdout
    assert "warn" in result.stdout
    assert "streamflow-asyncio[odd]" in result.stdout


def test_doctor_warns_of_a_network_disk(project, monkeypatch):
    monkeypatch.setattr("streamflow.state.lock.file_system", lambda directory: "nfs4")
    result = project("doctor")
    assert "network file system (nfs4)" in result.stdout
