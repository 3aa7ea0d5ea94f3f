"""Routes of the package, served while a model of the kind `house-price` is loaded."""

from __future__ import annotations

from urllib.parse import parse_qs

from pydantic import BaseModel, Field

from houses.task import HousePrice
from penstock.errors import InvalidInput
from penstock.plugin_api import Call, Endpoint, Refusal, Reply, json_reply, read_json, tasks_of


class RecentPrices(BaseModel):
    """The latest prices that this server predicted."""

    prices_eur: list[int]


class Market(BaseModel):
    """The state of the market."""

    factor: float = Field(gt=0, le=10, allow_inf_nan=False, description="1 is the market at training time.")


def _tasks(call: Call) -> list[HousePrice]:
    tasks = [task for task in tasks_of(call, HousePrice.kind) if isinstance(task, HousePrice)]
    if not tasks:
        raise Refusal(404, "no model of the kind house-price is loaded", title="No such model")
    return tasks


async def prices(call: Call) -> Reply:
    """`GET /houses/prices?limit=`."""
    limit = parse_qs(call.query).get("limit", ["10"])[-1]
    if not limit.isdecimal() or not 1 <= int(limit) <= 100:
        raise InvalidInput("limit: give a whole number from 1 to 100", field="limit")
    recent = [price for task in _tasks(call) for price in task.recent]
    return json_reply(RecentPrices(prices_eur=recent[-int(limit) :]))


async def set_market(call: Call) -> Reply:
    """`PUT /houses/market`."""
    market = read_json(Market, await call.body())
    for task in _tasks(call):
        task.market = market.factor
    return json_reply(market)


LIMIT = {
    "name": "limit",
    "in": "query",
    "description": "Maximum number of prices.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
}

ROUTES = (
    Endpoint(
        "GET", "/houses/prices", prices, "houses", "The latest predicted prices",
        responses=(RecentPrices,), parameters=(LIMIT,), problems=(404, 422),
    ),
    Endpoint(
        "PUT", "/houses/market", set_market, "houses", "Set the market factor",
        "Requires admin access.",
        requests=(Market,), responses=(Market,), problems=(401, 403, 404, 413, 422),
        example={"factor": 1.1}, guarded=True,
    ),
)  # fmt: skip
