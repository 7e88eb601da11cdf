"""Send files of a folder to the Hub: only new ones, all in one commit, and never show the token."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, get_token


def upload_files(
    folder: Path,
    repo_id: str,
    repo_type: str,
    files: Sequence[str],
    private: bool | None = None,
    message: str | None = None,
    outdated: Sequence[str] = (),
) -> str:
    """Upload files of a folder to a repository, which is created if missing, and return the repository's address.

    Files that are there already are not sent again. Files there that match a pattern in `outdated` and are not in `files`
    are removed. `private` is for a new repository; None: the owner's settings decide.

    Raises:
        OSError: The Hub refuses, or the connection broke; repeat the call to continue.
        ValueError: The Hub rejects the card.
        PermissionError: There is no token.
    """
    check_token()
    api = HfApi()
    with plain_errors(repo_id, folder):
        address = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            repo_type=repo_type,
            allow_patterns=[glob.escape(file) for file in files],
            delete_patterns=list(outdated) or None,
            commit_message=message,
        )
    return str(address)


def check_token() -> None:
    """Raise a `PermissionError` if there is no token, and a `ValueError` if it has characters that no token has.

    The HTTP library would quote such a token in its error message.
    """
    token = get_token()
    if token is None:
        raise PermissionError("there is no token for the Hub: run `hf auth login`, or set HF_TOKEN.")
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError("the token for the Hub holds spaces or other characters that no token has: copy it again.")


@contextmanager
def plain_errors(repo_id: str, folder: Path) -> Iterator[None]:
    """Turn errors of the Hub client and its HTTP library into errors that say what to do, without the token.

    They are not chained: a traceback would show the token. A card that the Hub rejects is a `ValueError`, all else an
    `OSError`.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(without_token(str(error))) from None
    except Exception as error:  # the HTTP library's errors are no OSError
        cause = str(error.__cause__ or "")  # the client wraps the error that broke an upload
        message = without_token(str(error) if cause in str(error) else f"{error}: {cause}")
        raise OSError(
            f"{repo_id} was not uploaded ({type(error).__name__}: {message}). {folder} is complete; "
            "repeat the same command: what arrived is not sent again."
        ) from None


def without_token(text: str) -> str:
    """Hide the user's token in a text, such as an error of the HTTP library about a header.

    Example:
        >>> without_token("illegal header b'Bearer hf_abc'")
        "illegal header b'Bearer (hidden)'"
    """
    token = get_token()
    if token:
        text = text.replace(token, "(hidden)")
    return re.sub(r"(?i)(?<=bearer )[^'\"\s]+|\bhf_[A-Za-z0-9]{16,}", "(hidden)", text)
