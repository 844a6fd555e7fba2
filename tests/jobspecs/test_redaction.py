"""Secrets in texts: what is blacked out, what is left, and that no spec holds one."""

from __future__ import annotations

import subprocess
import traceback

import pytest

from jobspecs.errors import SpecError
from jobspecs.load import loads
from jobspecs.redaction import before_open_key, behind_cut_key, black_out, redacted, secret_in

SECRETS = {
    "http://user:pa55word@minio:9000/x": "http://***@minio:9000/x",
    "https://ghx0123@host/a": "https://***@host/a",
    "s3.amazonaws.com/a.tar?X-Amz-Credential=AK%2F1&X-Amz-Signature=ab12&v=1": (
        "s3.amazonaws.com/a.tar?X-Amz-Credential=***&X-Amz-Signature=***&v=1"
    ),
    "https://blob/a?sv=1&sig=ab%3D": "https://blob/a?sv=1&sig=***",
    "key AKIAABCDEFGHIJKLMNOP.": "key ***.",
    "hf_abcdefghijklmnopqrstuvwxyz": "***",
    "github_pat_11ABCDEFG0abcdefghijkl_abcdefghijkl": "***",
    "sk_live_abcdefghijklmnopqrst, sk-proj-abcd_efgh-ijklmnopqrst": "***, ***",
    "xoxb-123456789012-123456789012-abcdefgh": "***",
    "-----BEGIN RSA PRIVATE KEY-----": "***",
    "a\n-----BEGIN PRIVATE KEY-----\nMIIE\npa55\n-----END PRIVATE KEY-----\nb": "a\n***\nb",
    "a\n-----BEGIN EC PRIVATE KEY-----\nMIIE\npa55": "a\n***",
}


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_by_their_looks(text: str) -> None:
    assert secret_in(text)
    assert redacted(text, {}) == SECRETS[text]
    assert secret_in(SECRETS[text].replace("***", "")) is None


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a@b/{00..41}.tar",
        "a photo of {}: 5 @ 3",
        "team@example.org",
        "sig=1",
        "data/*.tar?",
        "s3://bucket/hf_conceptual_captions/*.tar",
        "sk_learn_digits_images",
    ],
)
def test_what_is_none(text: str) -> None:
    assert secret_in(text) is None
    assert redacted(text, {}) == text


def test_a_private_key_that_has_no_end_yet() -> None:
    begin, end = "-----BEGIN PRIVATE KEY-----\nMIIE\n", "-----END PRIVATE KEY-----\n"
    assert before_open_key(f"ab\n{begin}") == 3
    assert before_open_key(f"ab\n{begin}{end}cd\n{begin}") == len(f"ab\n{begin}{end}cd\n")
    assert before_open_key(f"{begin}{end}cd\n") == len(f"{begin}{end}cd\n")
    assert behind_cut_key(f"body\n{end}cd") == len(f"body\n{end}".rstrip("\n"))
    assert behind_cut_key(f"{begin}{end}cd") == behind_cut_key("cd") == 0


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


TOKEN = "hf_pa55pa55pa55pa55pa55"


def test_nothing_that_a_traceback_prints_of_an_exception_shows_a_secret() -> None:
    cause, error = OSError(5, "http://u:pa55@h", f"/tmp/{TOKEN}", None, TOKEN), RuntimeError(TOKEN, 3)
    error.__cause__, cause.__context__ = cause, error
    error.add_note(f"with {TOKEN}")
    inner = ConnectionError({"headers": [("Authorization", TOKEN)]}, [[[[[TOKEN]]]]], TOKEN.encode())
    cause.__cause__ = ValueError("no answer", [inner], ExceptionGroup("two", [OSError(2, TOKEN), KeyError(TOKEN)]))
    black_out(error)
    said = "".join(traceback.format_exception(error))
    assert "pa55" not in said
    assert "RuntimeError: ('***', 3)\nwith ***\n" in said
    assert "OSError: [Errno 5] http://***@h: '/tmp/***' -> '***'\n" in said
    assert cause.errno == 5


def test_what_an_exception_says_itself_is_blacked_out_too() -> None:
    error = subprocess.CalledProcessError(1, ["curl", "https://me:pa55@host"], stderr=TOKEN)
    black_out(error)
    assert str(error) == "Command '['curl', 'https://***@host']' returned non-zero exit status 1."
    assert error.stderr == "***"
