"""Secrets in texts: what is blacked out, what is left, and that no spec holds one."""

from __future__ import annotations

import pytest

from jobspecs.errors import SpecError
from jobspecs.load import loads
from jobspecs.redaction import black_out, redacted, secret_in

SECRETS = {
    "http://user:pa55word@minio:9000/x": "http://***@minio:9000/x",
    "https://ghx0123@host/a": "https://***@host/a",
    "s3.amazonaws.com/a.tar?X-Amz-Credential=AK%2F1&X-Amz-Signature=ab12&v=1": (
        "s3.amazonaws.com/a.tar?X-Amz-Credential=***&X-Amz-Signature=***&v=1"
    ),
    "https://blob/a?sv=1&sig=ab%3D": "https://blob/a?sv=1&sig=***",
    "key AKIAABCDEFGHIJKLMNOP.": "key ***.",
    "hf_abcdefghijklmnopqrstuvwxyz": "***",
    "-----BEGIN RSA PRIVATE KEY-----": "***",
}


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_by_their_looks(text: str) -> None:
    assert secret_in(text)
    assert redacted(text, {}) == SECRETS[text]
    assert secret_in(SECRETS[text].replace("***", "")) is None


@pytest.mark.parametrize(
    "text", ["s3://bucket/a@b/{00..41}.tar", "a photo of {}: 5 @ 3", "team@example.org", "sig=1", "data/*.tar?"]
)
def test_what_is_none(text: str) -> None:
    assert secret_in(text) is None
    assert redacted(text, {}) == text


def test_secrets_of_the_environment() -> None:
    environment = {
        "AWS_SECRET_ACCESS_KEY": "abcdefgh1234",
        "HF_TOKEN": "zyxwvuts",
        "RAY_AUTH_TOKEN_PATH": "/home/me/token",
        "TOKENIZERS_PARALLELISM": "disabled",
        "MY_PASSWORD": "short",
    }
    text = "abcdefgh1234 zyxwvuts /home/me/token disabled short"
    assert redacted(text, environment) == "*** *** /home/me/token disabled short"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("storage.s3.endpoint=http://me:pa55@minio:9000", "storage.s3.endpoint: a user or password in a URL"),
        ("data.sources.0.urls.0=https://b/a.tar?X-Amz-Signature=pa55", "data.sources.0.urls.0: a signed URL"),
        ("model.image={kind: pretrained, name: hf_pa55pa55pa55pa55pa55}", "(model.image.name): a token"),
    ],
)
def test_a_spec_with_a_secret_is_refused_without_showing_it(example: str, override: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        loads(example, "job.yaml", (override,))
    assert f"{message} has no place in a spec" in str(caught.value)
    assert "pa55" not in str(caught.value)
    assert "the cloud's role: see SECURITY.md" in str(caught.value)


def test_an_exception_and_what_it_came_from() -> None:
    cause, error = OSError(5, "http://u:pa55@h"), RuntimeError("hf_pa55pa55pa55pa55pa55", 3)
    error.__cause__, cause.__context__ = cause, error
    black_out(error)
    assert error.args == ("***", 3)
    assert cause.args == (5, "http://***@h")
