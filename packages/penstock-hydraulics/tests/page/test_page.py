"""The page in headless Chromium, as an engineer uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chromium import Page
from hydraulic_models import hydraulic_registry, readings
from live_servers import Live
from postgres import Server

from penstock.settings import Settings
from penstock_hydraulics.machine.templates import TEMPLATES

RIG = readings(TEMPLATES["zema_rig"])
PHONE = {"width": 390, "height": 800}
LISTED = "document.querySelectorAll('#machines a').length"
SHOWN = "!!document.querySelector('#machine-title') && document.querySelectorAll('#machine svg').length > 0"


def _diagnose(live: Live, equipment_id: str, hours: float = 0.0, **more: Any) -> Any:
    at = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
    body = {"equipment_id": equipment_id, "sensor_data": RIG, "topology": "zema_rig", "timestamp": at, **more}
    reply = live.http.post("/predict", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.fixture(scope="module")
def fleet(served: Live) -> Live:
    """Two machines with a history, one registered without any, one with three samples."""
    for hour in range(12, 0, -1):
        _diagnose(served, "press_1", hour)
        _diagnose(served, "press_2", hour)
    few = {"vibration_pump_main": [2.5, 2.6, 2.7]}
    _diagnose(served, "few_samples", sensor_data=few)
    assert served.http.put("/equipment/idle_9", json={"topology": "excavator", "note": "hall 3"}).status_code == 201
    served.http.get("/equipment/press_1/latest")  # waits until it is written
    return served


def _no_overflow(page: Page) -> None:
    assert page.run("document.documentElement.scrollWidth <= innerWidth")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    registry = hydraulic_registry(tmp_path_factory.mktemp("empty"))
    settings = Settings(registry=registry, threads=1, require_auth=True, admin_key="a-key-of-many-letters")
    with Live("h1", settings, ("hydraulics",)) as live:
        yield live


@pytest.mark.parametrize("size", [{}, PHONE])
def test_the_page_asks_for_a_key_and_says_that_there_is_no_machine_yet(
    page: Page, empty: Live, size: dict[str, int]
) -> None:
    page.open(f"{empty.url}/hydraulics", **size)
    page.run("sessionStorage.clear()")
    page.until("!document.querySelector('#access').hidden")
    assert "This server asks for a key" in page.text("#access")
    page.type("#key", "a-key-that-is-wrong")
    page.press("Enter", 13, "\r")
    page.until("document.querySelector('#access-why').innerText.includes('not valid')")
    page.errors.clear()  # the browser reports replies of 401
    page.type("#key", "a-key-of-many-letters")
    page.click("#access button")
    page.until("document.querySelector('#counts').innerText.includes('No machine yet')")
    assert page.run("document.querySelector('#access').hidden")
    page.run("sessionStorage.clear()")
    _no_overflow(page)


@pytest.mark.parametrize("size", [{}, PHONE])
def test_machines_are_listed_with_their_state_and_found(page: Page, fleet: Live, size: dict[str, int]) -> None:
    page.open(f"{fleet.url}/hydraulics", **size)
    page.until(f"{LISTED} >= 4")
    listed = page.text("#machines")
    assert "idle_9" in listed
    assert "no diagnosis" in listed
    status = fleet.http.get("/equipment/press_1/latest").json()["answer"]["health"]["status"]
    assert page.text("#machines [data-id=press_1] .status") == status
    _no_overflow(page)
    page.type("#search", "PRESS_")
    page.until(f"{LISTED} === 2")
    page.type("#search", "nothing like it")
    page.until("document.querySelector('#counts').innerText === 'No machine is like this.'")


@pytest.mark.parametrize("size", [{}, PHONE])
def test_a_machine_shows_what_its_answer_rests_on_and_its_history(
    page: Page, fleet: Live, size: dict[str, int]
) -> None:
    page.open(f"{fleet.url}/hydraulics#/machine/press_1", **size)
    page.until(SHOWN)
    latest = fleet.http.get("/equipment/press_1/latest").json()
    seen = page.text("#machine")
    for sentence in latest["answer"]["warnings"]:
        assert sentence in seen
    assert f"({latest['answer']['health']['basis']})" in seen
    assert f"Coverage {round(latest['answer']['coverage'] * 100)}\u00a0%" in seen
    plots = [name for role, name in page.names() if role == "image"]
    assert any(name.startswith("Health") and "12 values" in name for name in plots)
    assert {name.partition(" ")[0] for name in plots} >= RIG.keys()
    assert any(name.startswith("pump_main") for name in plots)
    _no_overflow(page)
    page.click("#machine summary")
    assert page.run("document.querySelectorAll('#machine details tbody tr').length") == 12
    page.run("document.querySelector('#machine select').value = 'null'")
    page.run("document.querySelector('#machine select').dispatchEvent(new Event('change'))")
    page.until("document.querySelector('#machine select').value === 'null' && !!document.querySelector('#machine svg')")


def test_a_machine_without_a_diagnosis_and_one_that_is_unknown_are_told_apart(page: Page, fleet: Live) -> None:
    page.open(f"{fleet.url}/hydraulics#/machine/idle_9")
    page.until("document.querySelector('#machine').innerText.includes('No whole answer is stored yet')")
    assert "Registered: excavator · hall 3" in page.text("#machine")
    page.run("location.hash = '#/machine/nobody'")
    page.until("document.querySelector('#machine').innerText.includes('No machine has this id')")
    page.errors.clear()  # the browser reports a reply of 404


@pytest.mark.parametrize("machine", ["hall:3.press-1", "few_samples"])
def test_a_machine_with_a_single_result_is_drawn(page: Page, fleet: Live, machine: str) -> None:
    if not fleet.http.get(f"/equipment/{machine}/history").is_success:
        _diagnose(fleet, machine)
    page.open(f"{fleet.url}/hydraulics#/machine/{machine}")
    page.until("document.querySelectorAll('#machine details tbody tr').length === 1")
    assert page.text("#machine-title") == machine
    assert page.run("document.querySelectorAll('#machine .sensors figure').length") > 0


def test_the_keyboard_leads_to_a_machine_and_the_reader_is_told_where_it_is(page: Page, fleet: Live) -> None:
    page.open(f"{fleet.url}/hydraulics", **PHONE)
    page.until(f"{LISTED} >= 4")
    for _ in range(30):
        page.press("Tab", 9)
        if page.run("document.activeElement.dataset.id === 'press_2'"):
            break
    page.press("Enter", 13, "\r")
    page.until("document.activeElement.id === 'machine-title'")
    assert page.text("#machine-title") == "press_2"
    assert page.run("document.title") == "press_2 · Hydraulic machines"
    page.until(SHOWN)
    roles = page.names()
    assert [name for role, name in roles if role == "main"] != []
    controls = [(role, name) for role, name in roles if role in ("textbox", "searchbox", "combobox", "button", "link")]
    assert [role for role, name in controls if not name] == []
    assert ("cell", "valve_main") in roles  # rows that are shown as blocks are still a table
    page.click(".back")
    page.until("document.body.dataset.view === 'list'")


@pytest.mark.parametrize("dark", [False, True])
def test_colours_can_be_read_in_light_and_dark(page: Page, fleet: Live, dark: bool) -> None:
    page.open(f"{fleet.url}/hydraulics", dark=dark)
    ratios = page.run("""(() => {
          const style = getComputedStyle(document.documentElement);
          const hex = (name) => style.getPropertyValue(`--${name}`).trim().slice(1);
          const parts = (name) => hex(name).replace(/^(.)(.)(.)$/, "$1$1$2$2$3$3")
            .match(/../g).map((part) => parseInt(part, 16) / 255);
          const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          const shares = [0.2126, 0.7152, 0.0722];
          const light = (name) => parts(name).reduce((sum, v, k) => sum + linear(v) * shares[k], 0.05);
          const ratio = (a, b) => Math.max(light(a), light(b)) / Math.min(light(a), light(b));
          const inks = ["ink", "quiet", "mark", "healthy", "warning", "critical", "unknown"];
          return Object.fromEntries(inks.map((name) => [name, Math.min(ratio(name, "card"), ratio(name, "ground"))]));
        })()""")
    assert min(ratios.values()) >= 4.5, ratios
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(18, 22, 29)") is dark


def test_many_machines_come_in_pages(page: Page, served: Live) -> None:
    for place in range(120):
        served.http.put(f"/equipment/many_{place:03}", json={"topology": "zema_rig"})
    page.open(f"{served.url}/hydraulics")
    page.until(f"{LISTED} >= 100")
    page.type("#search", "many_")
    page.until("document.querySelector('#counts').innerText === '100 or more found'")
    assert page.run(LISTED) == 100
    page.click("#more")
    page.until(f"{LISTED} === 120 && document.querySelector('#more').hidden")
    for place in range(120):
        served.http.delete(f"/equipment/many_{place:03}")


def _csv(newline: str = "\r\n", **changes: str) -> str:
    rows = [";".join(RIG)]
    for values in zip(*RIG.values(), strict=True):
        rows.append(
            ";".join(changes.get(name, str(value).replace(".", ",")) for name, value in zip(RIG, values, strict=True))
        )
    return newline.join(rows)


@pytest.mark.parametrize("size", [{}, PHONE])
def test_a_cycle_from_a_file_is_diagnosed(page: Page, fleet: Live, size: dict[str, int], tmp_path: Path) -> None:
    file = tmp_path / "cycle.csv"
    file.write_text(_csv(), encoding="utf-8-sig")
    page.open(f"{fleet.url}/hydraulics#/diagnose", **size)
    page.until("document.querySelectorAll('#circuit option').length > 1")
    page.type("#equipment", "from_file")
    page.choose_file("#file", file)
    page.until("document.querySelector('#preview').innerText")
    assert page.text("#preview") == f"{len(RIG)} sensors, 60 lines, 60 s; rates: 1 Hz"
    page.run("document.querySelector('#circuit').value = 'zema_rig'")
    page.click("#send")
    page.until("!!document.querySelector('#answer h2')")
    assert page.run("document.activeElement.innerText") == "Diagnosis of from_file"
    answer = fleet.http.get("/equipment/from_file/latest").json()["answer"]
    direct = _diagnose(fleet, "directly")
    assert answer["components"] == direct["components"]
    assert answer["health"]["status"] in page.text("#answer")
    _no_overflow(page)


def test_what_is_wrong_with_a_cycle_is_said_beside_it(page: Page, fleet: Live) -> None:
    page.open(f"{fleet.url}/hydraulics#/diagnose")
    page.type("#equipment", "exc_001")
    page.click("#send")
    page.until("document.querySelector('#problem').innerText === 'Paste a cycle, or choose a file.'")
    page.type("#csv", "pressure_pump_main;flow_pump_main\n161;6,7\n160;much")
    page.until(
        """document.querySelector('#problem').innerText === 'Column flow_pump_main, line 3: "much" is not a number.'"""
    )
    page.run("document.querySelector('#csv').value = ''")
    page.type("#csv", "pressure_pump_main\n5000\n5000\n5000")
    page.click("#send")
    page.until("document.querySelector('#problem').innerText.includes('pressure_pump_main')")
    assert "2000" in page.text("#problem")
    page.errors.clear()  # the browser reports a reply of 422


def test_names_from_outside_run_nothing(page: Page, fleet: Live) -> None:
    evil = "<img src=x onerror=alert(1)>"
    page.open(f"{fleet.url}/hydraulics#/diagnose")
    page.type("#equipment", "exc_evil")
    page.type("#csv", f"pressure_pump_main;{evil}\n161;1\n160;2\n162;3")
    page.click("#send")
    page.until("!!document.querySelector('#answer h2')")
    assert evil in page.text("#answer")
    assert page.run("document.querySelectorAll('main img').length") == 0


def test_a_lost_database_leaves_what_was_read_and_the_form(page: Page, tmp_path: Path) -> None:
    with Server() as server:
        address = server.new_database()
        registry = hydraulic_registry(tmp_path, address)
        settings = Settings(registry=registry, database_url=address, threads=1)
        with Live("h1", settings, ("hydraulics",)) as live:
            _diagnose(live, "press_7", 1)
            live.http.get("/equipment/press_7/latest")
            page.open(f"{live.url}/hydraulics#/machine/press_7")
            page.until(SHOWN)
            page.until(f"{LISTED} === 1")
            server.crash()
            page.run("document.dispatchEvent(new Event('visibilitychange'))")  # as when the reader returns to the tab
            page.until("document.querySelector('#notice').innerText.includes('database')")
            assert "What is shown was read at" in page.text("#notice")
            assert page.run(LISTED) == 1
            assert page.run("document.querySelectorAll('#machine svg').length") > 0
            page.open(f"{live.url}/hydraulics#/diagnose")  # by a reader who comes only now
            page.until("document.querySelector('#notice').innerText.includes('predictions continue without it')")
            page.type("#equipment", "press_7")
            page.run(f"document.querySelector('#csv').value = {json.dumps(_csv())}")
            page.click("#send")
            page.until("!!document.querySelector('#answer h2')")
            server.start()
            page.run("document.dispatchEvent(new Event('visibilitychange'))")
            page.until(
                "document.querySelector('#notice').hidden || void document.dispatchEvent(new Event('visibilitychange'))"
            )
            page.errors.clear()  # the browser reports replies of 503
