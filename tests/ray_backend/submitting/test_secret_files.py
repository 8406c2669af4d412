"""The files that a submission sends, packed by Ray's own code: none looks like a secret, whatever the folder's own files
say."""

from pathlib import Path

import pytest

from tests.ray_backend.submitting.sent_files import NOBODY, fill, sent
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.errors import ConfigError
from vldd_dist.ray_backend.submitting.submit import runtime_env, submit

SECRETS = [
    *(
        ".env",
        ".env.local",
        ".envrc",
        "prod.env",
        ".ENV",
        ".aws/credentials",
        ".aws/config",
        ".ssh/id_ed25519",
        ".netrc",
        "_netrc",
    ),
    *("server.pem", "KEY.PEM", "tls.key", "id_rsa", "id_rsa.old", "gcp-key.json", "keyfile.json", "my-service-account-1.json"),
    *(".kube/config", ".docker/config.json", ".git/config", ".gnupg/private.kbx", ".config/gcloud/access_tokens.db"),
    *(
        "new_user_credentials.csv",
        "rootkey.csv",
        "client_secret_1.json",
        "application_default_credentials.json",
        "passwords.txt",
    ),
    *(".pypirc", ".npmrc", ".pgpass", ".git-credentials", ".bash_history", ".ray/auth_token", "terraform.tfstate.backup"),
]
WANTED = [
    "config.yaml",
    "jobs/run.py",
    "code/credentials.py",
    "code/secrets.py",
    "code/keys.py",
    "data/captions.json",
    "envs.yaml",
]


def test_secrets_at_any_depth_are_not_sent(tmp_path: Path) -> None:
    root = tmp_path / "work"
    fill(root, [*SECRETS, *(f"a/b/{name}" for name in SECRETS), *WANTED])
    assert sent(root, tmp_path / "package.zip") == set(WANTED)


def test_settings_of_a_folder_cannot_make_it_send_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by its ignore files, nor by its runtime environment, nor by Ray's environment variable for its default
    excludes."""
    monkeypatch.setenv("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")
    root = tmp_path / "work"
    fill(root, [*SECRETS, *WANTED, "big.tar"])
    (root / ".rayignore").write_text("!.env\n!*.pem\n")
    (root / ".gitignore").write_text("!.env\n!.aws/\n")
    (root / "jobs/runtime_env.yaml").write_text("excludes: ['*.tar', '!.env', '!server.pem', '!.aws', '!.git']\n")
    given = {".rayignore", ".gitignore", "jobs/runtime_env.yaml"}
    assert sent(root, tmp_path / "package.zip") == {*WANTED, *given}


def test_an_empty_runtime_environment_file_is_accepted(tmp_path: Path) -> None:
    fill(tmp_path, ["jobs/run.py", ".env"])
    (tmp_path / "jobs/runtime_env.yaml").write_text("# Nothing.\n")
    assert runtime_env(tmp_path)["excludes"]


def test_a_job_from_any_folder_has_time_to_store_its_checkpoints(tmp_path: Path) -> None:
    assert runtime_env(tmp_path)["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "60"
    fill(tmp_path, ["jobs/run.py"])
    (tmp_path / "jobs/runtime_env.yaml").write_text('env_vars: {RAY_JOB_STOP_WAIT_TIME_S: "300"}')
    assert runtime_env(tmp_path)["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "300"


@pytest.mark.parametrize("folder", ["home", ".", "/"])
def test_the_home_directory_is_not_sent(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    fill(home, ["config.yaml"])
    monkeypatch.setenv("HOME", str(home))
    root = (tmp_path / folder).resolve()
    with pytest.raises(ConfigError, match=f"^--working-dir {root}: contains your home directory"):
        submit(load_experiment("jobs/presets/scenes.yaml"), str(home / "config.yaml"), [], "s3://a/b", NOBODY, str(root))


def test_a_folder_in_the_home_directory_may_be_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, ["home/project/config.yaml"])
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root = tmp_path / "home/project"
    with pytest.raises(ConfigError, match="cannot be reached"):
        submit(load_experiment("jobs/presets/scenes.yaml"), str(root / "config.yaml"), [], "s3://a/b", NOBODY, str(root))


def test_a_needed_file_with_a_secrets_name_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, ["my-secret.yaml", "config.yaml", "data/keypoints.json", "images/1.jpg"])
    plain = load_experiment("jobs/presets/scenes.yaml")
    with pytest.raises(ConfigError, match=r"^the description: .*my-secret\.yaml is named like a file with secrets"):
        submit(plain, str(tmp_path / "my-secret.yaml"), [], "s3://a/b", NOBODY, str(tmp_path))
    overrides = ["data.source=karpathy", "data.source.annotations=data/keypoints.json", "data.source.images=images"]
    karpathy = load_experiment("jobs/presets/flickr30k-nfnet-bert.yaml", overrides)
    with pytest.raises(ConfigError, match=r"^data\.source\.annotations: data/keypoints.json is named like .* rename it$"):
        submit(karpathy, str(tmp_path / "config.yaml"), [], "s3://a/b", NOBODY, str(tmp_path))
