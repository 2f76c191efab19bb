"""Signs webhooks, and judges signatures, as the providers' own libraries do.

Each line of the input is a question, each line of the output its answer, both JSON. A question carries "do" ("sign" or
"verify"), "scheme", "secret", "url" (as the provider was told), "form" (whether the body is one) and "body" (text);
to sign also "id" and "timestamp", answered with "headers" and "url"; to verify also "headers", answered with "good".

GitHub's library has nothing that signs and Shopify's nothing for webhooks: there the documentation's own lines sign. Where a
handler describes an HMAC of its own ("hmac"), Python's does.
"""

import base64
import hashlib
import hmac
import json
import sys
from datetime import datetime, timezone
from urllib.parse import parse_qsl

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gidgethub.sansio import validate_event
from slack_sdk.signature import SignatureVerifier
from standardwebhooks import Webhook
from stripe import WebhookSignature
from svix.webhooks import Webhook as SvixWebhook
from twilio.request_validator import RequestValidator


class Fields(dict):
    """A form with repeated fields, as Django's QueryDict is."""

    def __init__(self, text):
        super().__init__()
        for name, value in parse_qsl(text, keep_blank_values=True):
            self.setdefault(name, []).append(value)

    def getlist(self, name):
        return self[name]


def stripe_sign(q):
    return {"Stripe-Signature": WebhookSignature.generate_signature_header(q["body"], q["secret"], q["timestamp"])}


def stripe_verify(q):
    return WebhookSignature.verify_header(q["body"], q["headers"]["Stripe-Signature"], q["secret"], 300)


def github_sign(q):
    digest = hmac.new(q["secret"].encode(), q["body"].encode(), hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={digest}"}


def github_verify(q):
    signature = q["headers"]["X-Hub-Signature-256"]
    validate_event(q["body"].encode(), signature=signature, secret=q["secret"])
    return signature.startswith("sha256=")


def slack_sign(q):
    stamp = str(q["timestamp"])
    signature = SignatureVerifier(q["secret"]).generate_signature(timestamp=stamp, body=q["body"])
    return {"X-Slack-Signature": signature, "X-Slack-Request-Timestamp": stamp}


def slack_verify(q):
    return SignatureVerifier(q["secret"]).is_valid_request(q["body"], q["headers"])


def shopify_digest(q):
    return base64.b64encode(hmac.new(q["secret"].encode(), q["body"].encode(), hashlib.sha256).digest()).decode()


def shopify_sign(q):
    return {"X-Shopify-Hmac-SHA256": shopify_digest(q)}


def shopify_verify(q):
    return hmac.compare_digest(shopify_digest(q), q["headers"]["X-Shopify-Hmac-SHA256"])


def twilio_sign(q):
    validator = RequestValidator(q["secret"])
    if q["form"]:
        return {"X-Twilio-Signature": validator.compute_signature(q["url"], Fields(q["body"]))}
    if q["body"]:
        q["url"] += ("&" if "?" in q["url"] else "?") + "bodySHA256=" + validator.compute_hash(q["body"])
    return {"X-Twilio-Signature": validator.compute_signature(q["url"], {})}


def twilio_verify(q):
    params = Fields(q["body"]) if q["form"] else q["body"]
    return RequestValidator(q["secret"]).validate(q["url"], params, q["headers"]["X-Twilio-Signature"])


def standard_sign(q):
    stamp = str(q["timestamp"])
    headers = {"webhook-id": q["id"], "webhook-timestamp": stamp}
    if q["secret"].startswith("whsk_"):
        key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(q["secret"][5:]))
        signature = key.sign(f"{q['id']}.{stamp}.{q['body']}".encode())
        return headers | {"webhook-signature": "v1a," + base64.b64encode(signature).decode()}
    time = datetime.fromtimestamp(q["timestamp"], tz=timezone.utc)
    return headers | {"webhook-signature": Webhook(q["secret"]).sign(q["id"], time, q["body"])}


def standard_verify(q):
    if q["secret"].startswith("whsk_"):
        key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(q["secret"][5:])).public_key()
        version, signature = q["headers"]["webhook-signature"].split(",")
        signed = f"{q['headers']['webhook-id']}.{q['headers']['webhook-timestamp']}.{q['body']}"
        key.verify(base64.b64decode(signature), signed.encode())
        return version == "v1a"
    Webhook(q["secret"]).verify(q["body"], q["headers"], json_parse=False)
    return True


def svix_sign(q):
    time = datetime.fromtimestamp(q["timestamp"], tz=timezone.utc)
    signature = SvixWebhook(q["secret"]).sign(q["id"], time, q["body"])
    return {"svix-id": q["id"], "svix-timestamp": str(q["timestamp"]), "svix-signature": signature}


def svix_verify(q):
    SvixWebhook(q["secret"]).verify(q["body"], q["headers"])
    return True


def hmac_digest(q, stamp):
    return hmac.new(q["secret"].encode(), f"{stamp}.{q['body']}".encode(), hashlib.sha512).hexdigest()


def hmac_sign(q):
    stamp = str(q["timestamp"])
    return {"X-Sign": f"v1={hmac_digest(q, stamp)}", "X-Time": stamp}


def hmac_verify(q):
    return hmac.compare_digest(f"v1={hmac_digest(q, q['headers']['X-Time'])}", q["headers"]["X-Sign"])


SCHEMES = {
    "stripe": (stripe_sign, stripe_verify),
    "github": (github_sign, github_verify),
    "slack": (slack_sign, slack_verify),
    "shopify": (shopify_sign, shopify_verify),
    "twilio": (twilio_sign, twilio_verify),
    "standard-webhooks": (standard_sign, standard_verify),
    "svix": (svix_sign, svix_verify),
    "hmac": (hmac_sign, hmac_verify),
}


def answer(q):
    sign, verify = SCHEMES[q["scheme"]]
    if q["do"] == "sign":
        headers = sign(q)
        return {"headers": headers, "url": q["url"]}
    try:
        return {"good": bool(verify(q))}
    except Exception as error:  # Each library has its own.
        return {"good": False, "reason": str(error)}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
