"""Stripe's events: signed by Stripe, kept by the gateway, and taken here once they are done with.

The gateway needs the signing secret:

    [secrets]
    stripe-live = "whsec_..."
"""

import logging

import gearway

log = logging.getLogger("stripe_webhook")


@gearway.handler(
    "pay/stripe",
    method=["POST"],
    verify={"scheme": "stripe", "secret": "stripe-live"},
    delivery={"mode": "durable"},
)
def paid(request: gearway.Request) -> str:
    event = request.get_json()
    delivery = request.context.delivery
    # Stripe may send an event twice; the gateway calls once for each id. Whatever is raised here is tried again.
    log.info("took %s, attempt %s", event["type"], delivery["attempt"] if delivery else "-")
    return "taken"


gearway.run()
