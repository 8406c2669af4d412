"""Files that a submission never uploads, whatever the ignore files in the working directory say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vldd_dist.errors import ConfigError

_TEXT = ("json", "yaml", "yml", "toml", "ini", "cfg", "conf", "csv", "txt", "xml")

# Patterns of file and folder names at any depth, as in .gitignore. Keep .dockerignore the same.
SECRET_NAMES = (
    # Configuration of tools, which may contain keys and tokens; .git contains the URLs of remotes.
    *(
        ".env*",
        "*.env",
        ".aws",
        ".azure",
        ".boto",
        ".cache",
        ".config",
        ".databrickscfg",
        ".docker",
        ".git",
        ".git-credentials",
    ),
    *(".gnupg", ".htpasswd", ".kube", ".my.cnf", ".netrc", "_netrc", ".npmrc", ".oci", ".passwd-s3fs", ".pgpass", ".pypirc"),
    *(".ray", ".s3cfg", ".ssh", ".streamlit", ".terraform", ".vault-token", ".*_history", "rclone.conf", "auth_token"),
    *("*.tfstate*", "*.tfvars", "kubeconfig*", "*.kubeconfig"),
    # Private keys and certificates.
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.ppk", "*.kdbx", "*.gpg", "*.ovpn"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*"),
    # Keys of service accounts and users, under the names that clouds give them for download.
    *("*key*.json", "*service*account*.json", "rootkey*.csv", "*accesskey*.csv", "credentials"),
    *(f"*{word}*.{ending}" for word in ("credential", "secret", "password") for ending in _TEXT),
)


def _in_any_case(pattern: str) -> str:
    return "".join(f"[{letter.lower()}{letter.upper()}]" if letter.isalpha() else letter for letter in pattern)


# For `excludes` in Ray's runtime environment. They must come after the user's own, because the last matching pattern decides.
EXCLUDES = [_in_any_case(name) for name in SECRET_NAMES]


def check_working_dir(root: Path) -> None:
    """Refuse a working directory that contains the home directory.

    Raises:
        ConfigError: it contains the home directory.
    """
    if Path.home().resolve().is_relative_to(root):
        raise ConfigError(
            f"--working-dir {root}: contains your home directory, all of which would be uploaded: "
            "put the description and the code in a folder of their own"
        )


def texts_of(description: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(key as in `--set`, value) for each string in a description."""
    for key, value in description.items():
        if isinstance(value, dict):
            yield from texts_of(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            yield prefix + key, value
