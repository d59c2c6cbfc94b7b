"""States over HTTP: a FastAPI router with Prefect's two routes, two of our own, and two pages. The extra `web` brings what it needs."""

try:
    import fastapi  # noqa: F401
    import jinja2  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(f"flowstates.web needs {error.name}: pip install 'flowstates[web]'", name=error.name) from None

from flowstates.web.router import create_router

__all__ = ["create_router"]
