"""Where the token comes from, and that it shows nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayscale.cluster.token import Token, find_token
from rayscale.errors import EnvironmentUnusableError, InputError


def home_with(directory: Path, token: str) -> Path:
    (directory / ".ray").mkdir()
    (directory / ".ray" / "auth_token").write_text(f"{token}\n", encoding="utf-8")
    return directory


def test_rays_order_of_places(tmp_path: Path) -> None:
    home = home_with(tmp_path, "from-home")
    named = tmp_path / "named"
    named.write_text("from-file\n", encoding="utf-8")
    path = {"RAY_AUTH_TOKEN_PATH": str(named)}
    assert find_token({**path, "RAY_AUTH_TOKEN": " direct\n"}, home) == Token("direct", "RAY_AUTH_TOKEN")
    assert find_token(path, home) == Token("from-file", "RAY_AUTH_TOKEN_PATH")
    assert find_token({"RAY_AUTH_TOKEN": ""}, home) == Token("from-home", "~/.ray/auth_token")
    assert find_token({}, tmp_path / "elsewhere") is None


def test_ray_itself_finds_the_same(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("the-very-token\n", encoding="utf-8")
    places = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"), "RAY_AUTH_MODE": "token"}
    rays = (
        "from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled as headers;"
        "import json; print(json.dumps(headers({})))"
    )
    # In a process of its own: Ray reads a token once and keeps it.
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"} | places
    result = subprocess.run([sys.executable, "-c", rays], env=environment, capture_output=True, text=True, check=True)
    ours = find_token(places, tmp_path)
    assert ours is not None
    assert {name.lower(): value for name, value in json.loads(result.stdout).items()} == {
        name.lower(): value for name, value in ours.headers().items()
    }


def test_no_representation_shows_it() -> None:
    token = Token("canary", "RAY_AUTH_TOKEN")
    assert "canary" not in repr(token) + str(token) + f"{token}"
    assert token.headers() == {"Authorization": "Bearer canary"}


@pytest.mark.parametrize("value", ["two words canary", "canary\r\nX-Injected: 1", "kanärie", "can\x07ary"])
def test_what_breaks_out_of_a_header_is_refused_without_repeating_it(tmp_path: Path, value: str) -> None:
    with pytest.raises(InputError, match="RAY_AUTH_TOKEN: expected a token") as caught:
        find_token({"RAY_AUTH_TOKEN": value}, tmp_path)
    assert "can" not in str(caught.value)


def test_a_missing_or_empty_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnusableError, match="RAY_AUTH_TOKEN_PATH: the token cannot be read: No such file"):
        find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, tmp_path)
    with pytest.raises(InputError, match=r"~/\.ray/auth_token: expected a token"):
        find_token({}, home_with(tmp_path, ""))
