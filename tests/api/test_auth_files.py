"""Files of credentials: what is taken, what is refused and in which words. The hashes were made by others (see each)."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegauge.api import auth, auth_files
from tidegauge.pipeline.config import HttpConfig
from tidegauge.pipeline.errors import ConfigError

PATH = Path("/etc/users")
BCRYPT = "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
"""Of `U*U`: crypt_blowfish's own test vector (Openwall, wrapper.c)."""
BCRYPT_2Y = "$2y$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e"
"""Of bytes `\\xff\\xff\\xa3`: as above."""
SHA_OF_PASSWORD = "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="
"""Of `password`: Apache's page on password formats."""


OPENSSL = {
    "-apr1": "$apr1$tidegage$rKZP22BpDwHHZkStq5aRQ0",
    "-5": "$5$tidegage$qopxY6uzteBNfI7BjlIl92VIs4CgkiQcX4VpFkQldH8",
    "-6": "$6$tidegage$iZTLDlDmIJjCl7.TowWlIEj64pfFh8mrF9Yq2xcUm8Wx6VUOeOD7pr4VnOUriAd7NTZ.594KEz1kJof0OQkCH.",
}
"""What `openssl passwd KIND -salt tidegage 'open sesame'` printed, OpenSSL 3.0."""


@pytest.mark.parametrize("kind", OPENSSL)
def test_a_hash_made_by_openssl_is_compared(kind: str) -> None:
    known = auth_files.htpasswd(f"bob:{OPENSSL[kind]}\n".encode(), PATH)
    assert auth_files.is_password(b"open sesame", b"bob", known)
    assert not auth_files.is_password(b"open sesame!", b"bob", known)
    assert not auth_files.is_password(b"", b"bob", known)


@pytest.mark.parametrize(
    ("hashed", "password"), [(BCRYPT, b"U*U"), (BCRYPT_2Y, b"\xff\xff\xa3"), (SHA_OF_PASSWORD, b"password")]
)
def test_published_hashes_are_compared(hashed: str, password: bytes) -> None:
    known = auth_files.htpasswd(f"# people\n\nbob:{hashed}\r\n".encode(), PATH)
    assert auth_files.is_password(password, b"bob", known)
    assert not auth_files.is_password(password + b"x", b"bob", known)
    assert not auth_files.is_password(password, b"alice", known), "the password of another"


def test_a_password_that_no_library_takes_is_wrong_and_no_error() -> None:
    for line in (f"bob:{BCRYPT}", f"bob:{OPENSSL['-apr1']}", f"bob:{SHA_OF_PASSWORD}"):
        known = auth_files.htpasswd(line.encode(), PATH)
        for password in (b"", b"a\0b", b"\xff" * 100, b"x" * 5000):
            assert not auth_files.is_password(password, b"bob", known)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("bob", "expected USER:HASH"),
        (":x", "expected USER:HASH"),
        ("bob:hunter2secret", "plain text"),
        ("bob:", "plain text"),
        ("bob:rqXexS6ZhobKA", "crypt"),
        ("bob:$1$salt$qJH7.N4xYta3aEG/dfqo/0", "other kinds"),
        ("bob:$y$j9T$F5Jx5fExrKuPp53xLKQ..1$tnSYvahCwPBHKZUspmcxMfb0.WiB9W.zEaKlOBL35rC", "other kinds"),
        (f"bob:{BCRYPT.replace('$05$', '$31$')}", "bcrypt cost"),
        ("bob:$6$rounds=999999999$salt$" + "a" * 86, "rounds"),
        ("bob:$5$salt$" + "a" * 86, "length"),
        (f"bob:{BCRYPT} ", None),
        (f"al:{BCRYPT}\nal:{BCRYPT}", "twice"),
    ],
)
def test_a_line_that_cannot_be_compared_is_named_and_not_shown(line: str, why: str | None) -> None:
    text = f"eve:{SHA_OF_PASSWORD}\n{line}\n".encode()
    if why is None:
        assert len(auth_files.htpasswd(text, PATH)) == 2
        return
    with pytest.raises(ConfigError, match=why) as raised:
        auth_files.htpasswd(text, PATH)
    assert str(raised.value).startswith(f"{PATH}:{2 + line.count(chr(10))}: ")
    assert "hunter2secret" not in str(raised.value)
    assert "$" not in str(raised.value).replace("$2", "")


def test_a_kind_whose_library_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'tidegauge\[auth\]'"):
        auth_files.htpasswd(f"bob:{BCRYPT}".encode(), PATH)
    auth_files.htpasswd(f"bob:{SHA_OF_PASSWORD}".encode(), PATH)


def test_digests_of_the_realm_alone_are_taken() -> None:
    ha1 = hashlib.md5(b"Mufasa:testrealm@host.com:Circle Of Life").hexdigest()
    text = f"Mufasa:testrealm@host.com:{ha1}\nMufasa:other:{ha1[::-1]}\n".encode()
    assert auth_files.htdigest(text, PATH, "testrealm@host.com") == {b"Mufasa": ha1}
    with pytest.raises(ConfigError, match=r"http\.digest_realm is 'third'"):
        auth_files.htdigest(text, PATH, "third")
    for bad in (b"Mufasa:realm", b"Mufasa:realm:0123", b"Mufasa:realm:" + b"g" * 32):
        with pytest.raises(ConfigError, match=f"{PATH}:3: "):
            auth_files.htdigest(text + bad, PATH, "testrealm@host.com")


def test_tokens_are_held_as_hashes_and_short_ones_refused() -> None:
    known = auth_files.tokens(b"0123456789abcdef\n# old\nAAAABBBBCCCCDDDD==\n", PATH)
    assert auth_files.is_token(b"0123456789abcdef", known)
    assert auth_files.is_token(b"AAAABBBBCCCCDDDD==", known)
    assert not auth_files.is_token(b"AAAABBBBCCCCDDDD", known)
    assert not any(b"0123456789abcdef" in each for each in known)
    for bad in (b"", b"# none\n", b"short\n", b"with blank inside it\n"):
        with pytest.raises(ConfigError):
            auth_files.tokens(bad, PATH)


@given(st.binary(max_size=200))
def test_no_file_gives_another_error_than_of_the_configuration(text: bytes) -> None:
    for parse in (
        lambda: auth_files.htpasswd(text, PATH),
        lambda: auth_files.htdigest(text, PATH, "r"),
        lambda: auth_files.tokens(text, PATH),
    ):
        try:
            assert parse()
        except ConfigError:
            pass


def test_files_that_are_missing_too_large_or_too_open_are_named(tmp_path: Path) -> None:
    path = tmp_path / "users"
    with pytest.raises(ConfigError, match=r"http\.auth_file: .*users: cannot be read: No such file"):
        auth.check(HttpConfig(auth_file=path))
    path.write_bytes(b"#" * (auth_files.MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="at most"):
        auth.check(HttpConfig(auth_file=path))
    path.write_text(f"bob:{BCRYPT}\n")
    path.chmod(0o640)
    assert auth.check(HttpConfig(auth_file=path)) == []
    path.chmod(0o644)
    assert "everybody may read it (mode 0644)" in auth.check(HttpConfig(auth_file=path))[0]
    path.chmod(0o660)
    assert "may write to it" in auth.check(HttpConfig(auth_file=path))[0]


def test_weak_hashes_and_passwords_in_the_clear_are_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"bob:{SHA_OF_PASSWORD}\n")
    path.chmod(0o600)
    assert "guessed fast" in auth.check(HttpConfig(auth_file=path))[0]
    assert any("cross the network readable" in line for line in auth.check(HttpConfig(auth_file=path, listen=":4194")))
