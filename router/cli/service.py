"""The commands of the service: serve, which serves a bundle, and token, which makes a bearer token."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.options import (
    LONGEST_SECONDS,
    AllowCode,
    ApiKey,
    Backend,
    Header,
    Memory,
    Served,
    Url,
    deployment,
    finite,
)
from router.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.trace import Tracer

    from router.backends import Engines
    from router.backends.specs import Deployment
    from router.bundle.bundle import Bundle
    from router.service.app import Server
    from router.service.bundle_manager import BundleManager
    from router.service.engine_watch import EngineWatch
    from router.solving.solver import Solver

_OBSERVER_SECONDS = 0.02  # within which a finished call is logged and counted


def serve(
    *,
    bundle: Served,
    bundle_digest: Annotated[
        str | None,
        typer.Option(
            envvar="ROUTER_BUNDLE_DIGEST",
            help="Refuse the bundle unless its manifest's SHA-256 starts with these hexadecimal digits.",
        ),
    ] = None,
    backend: Backend = None,
    url: Url = None,
    engine_api_key: ApiKey = None,
    header: Header = None,
    memory: Memory = None,
    host: Annotated[
        str,
        typer.Option(
            envvar="ROUTER_HOST", help="Address to listen on. Any but loopback needs --tls-cert, or --insecure."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="ROUTER_PORT", min=0, max=65535, help="Port to listen on; 0 is any free one.")
    ] = 50551,
    http: Annotated[
        str | None,
        typer.Option(
            envvar="ROUTER_HTTP",
            help="host:port to also serve OpenAI's clients on, at /v1/chat/completions, with the same TLS and tokens.",
        ),
    ] = None,
    http_name: Annotated[
        list[str] | None,
        typer.Option(
            envvar="ROUTER_HTTP_NAME",
            metavar="NAME",
            help="A host's name by which --http may be called, besides localhost, addresses and the host of --http. It "
            "matters without --tokens and --tls-cert only, against pages of other sites. Repeat it for more names.",
        ),
    ] = None,
    http_direct: Annotated[
        bool,
        typer.Option(
            "--http-direct/--no-http-direct",
            envvar="ROUTER_HTTP_DIRECT",
            help="Let the reference model alone answer requests that no search can serve: tools, images, logprobs.",
        ),
    ] = True,
    ui: Annotated[
        bool | None,
        typer.Option(
            "--ui/--no-ui",
            envvar="ROUTER_UI",
            show_default="on where --http is loopback",
            help="Serve pages that show searches, at /ui of --http. Beyond loopback they have to be asked for.",
        ),
    ] = None,
    share_port: Annotated[
        bool,
        typer.Option(
            "--share-port",
            envvar="ROUTER_SHARE_PORT",
            help="Share the port with other servers that also do, such as one for each core; without AdminService.",
        ),
    ] = False,
    tls_cert: Annotated[
        Path | None,
        typer.Option(envvar="ROUTER_TLS_CERT", help="Encrypt: the server's certificate chain, PEM. Needs --tls-key."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(envvar="ROUTER_TLS_KEY", help="The certificate's private key, PEM, no password.")
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            envvar="ROUTER_TLS_CLIENT_CA",
            help="Mutual TLS: refuse callers without a certificate signed by these authorities, PEM.",
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            envvar="ROUTER_TOKENS", help="Refuse callers without a bearer token of this TOML file; see `router token`."
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", envvar="ROUTER_INSECURE", help="Listen beyond loopback without encryption."),
    ] = False,
    concurrency: Annotated[
        int, typer.Option(envvar="ROUTER_CONCURRENCY", min=1, help="Searches that may run at the same time.")
    ] = 16,
    queue: Annotated[
        int,
        typer.Option(
            envvar="ROUTER_QUEUE",
            min=0,
            help="Searches that may wait for their turn; further calls are refused with a time to retry.",
        ),
    ] = 8,
    longest_search: Annotated[
        float,
        typer.Option(
            envvar="ROUTER_LONGEST_SEARCH",
            min=1,
            max=LONGEST_SECONDS,
            callback=finite,
            help="Seconds after which a search is ended, whatever its caller's deadline.",
        ),
    ] = 600.0,
    metrics: Annotated[
        str | None,
        typer.Option(envvar="ROUTER_METRICS", help="host:port to serve Prometheus metrics on, unencrypted."),
    ] = None,
    traces: Annotated[
        str | None,
        typer.Option(envvar="ROUTER_TRACES", help="OpenTelemetry collector to send traces to: http://host:4317."),
    ] = None,
    log_text: Annotated[
        bool, typer.Option("--log-text", envvar="ROUTER_LOG_TEXT", help="Log prompts and answers, too.")
    ] = False,
    outcomes: Annotated[
        str | None,
        typer.Option(
            envvar="ROUTER_OUTCOMES",
            help="Record decisions and outcomes in this database: sqlite:///outcomes.db, or a postgresql+psycopg URL.",
        ),
    ] = None,
    outcome_prompts: Annotated[
        bool,
        typer.Option(
            "--outcome-prompts",
            envvar="ROUTER_OUTCOME_PROMPTS",
            help="Record prompts and solutions, not only the prompts' digests; `collect --from-outcomes` needs them.",
        ),
    ] = False,
    explore: Annotated[
        float,
        typer.Option(
            envvar="ROUTER_EXPLORE",
            min=0,
            max=1,
            callback=finite,
            help="Share of decisions whose arm is drawn at random within the budget, to learn from their outcomes.",
        ),
    ] = 0.0,
    allow_code: AllowCode = False,
    grace: Annotated[
        float,
        typer.Option(
            envvar="ROUTER_GRACE",
            min=0,
            max=LONGEST_SECONDS,
            callback=finite,
            help="Seconds that running calls get to finish after SIGTERM.",
        ),
    ] = 10.0,
) -> None:
    """Serve a bundle over gRPC, and with --http to OpenAI's clients, until SIGTERM or Ctrl-C.

    Prints its addresses once it answers. Certificates and tokens are read again when their files change. Health and
    reflection are the standard gRPC services; health needs no token.
    """
    import asyncio
    import signal
    from contextlib import ExitStack
    from functools import partial

    from router.bundle.bundle import load_bundle
    from router.service import app as server
    from router.service import descriptors, logs, tracing
    from router.service.admission import Admission
    from router.service.auth import addresses, callers, certificates
    from router.service.auth.reload import Reloaded
    from router.service.metrics import Metrics
    from router.service.metrics_door import MetricsDoor
    from router.service.recorder import Recorder
    from router.solving.solver import Solver

    addresses.check_exposure(host, encrypted=tls_cert is not None, insecure=insecure)
    _check_together(tls_cert, tls_key, tls_client_ca, explore, outcomes)
    http_address = _http_address(http, encrypted=tls_cert is not None, insecure=insecure) if http else None
    _check_names(http_name or (), http)
    if metrics:
        addresses.read_address(metrics, "metrics")
    pages = with_pages(ui, http_address, share_port=share_port)
    logs.configure()
    descriptors.allow_many()  # before the workers start, which need some
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server handles it, so a closed terminal does not end it
    credentials = certificates.server_credentials(tls_cert, tls_key, tls_client_ca) if tls_cert and tls_key else None
    context = certificates.server_contexts(tls_cert, tls_key, tls_client_ca) if http and tls_cert and tls_key else None
    reloaded = Reloaded(partial(callers.read_tokens, tokens), tokens) if tokens else None
    tracer, end_tracing = tracing.exporter(traces) if traces else (None, lambda: None)
    where = deployment(backend, url, engine_api_key, memory, header)
    engines = partial(_engines, where, tracer)
    loaded = load_bundle(bundle, bundle_digest)
    solver = Solver(loaded, engines(loaded), where, explore=explore, allow_code=allow_code)
    _check_servers(where, loaded)
    recorder = Recorder(outcomes, prompts=outcome_prompts) if outcomes else None
    admission = Admission(concurrency, queue)

    def make() -> server.Server:
        bundles, watch = _managed(solver, bundle.resolve().parent, engines, where)
        measured = Metrics(bundles, admission, recorder)
        made = server.Server(
            bundles,
            host,
            port,
            credentials=credentials,
            tokens=reloaded,
            insecure=insecure,
            share_port=share_port,
            admission=admission,
            longest_search=longest_search,
            observers=[measured.observe, partial(logs.log_call, text=log_text)],
            observer_seconds=_OBSERVER_SECONDS,
            recorder=recorder,
            tracer=tracer,
            engines=watch,
            http=http_address,
            http_tls=context,
            http_names=http_name or (),
            http_direct=http_direct,
            ui=pages,
        )
        if metrics:
            MetricsDoor(measured.registry, metrics, lambda: made.serving)
        return made

    def started(server: "Server") -> None:
        print(f"serving {solver.bundle.id} on {addresses.address_of(host, server.port)}", flush=True)
        if http_address and server.http_port:
            root = f"{'https' if context else 'http'}://{addresses.address_of(http_address[0], server.http_port)}"
            print("\n".join(f"serving {root}/{door}" for door in ("v1", *["ui"] * pages)), flush=True)

    with ExitStack() as ending:
        ending.callback(end_tracing)
        asyncio.run(server.serve(make, grace=grace, started=started, read_again=reloaded or (lambda: None)))


def _check_together(
    tls_cert: Path | None, tls_key: Path | None, tls_client_ca: Path | None, explore: float, outcomes: str | None
) -> None:
    """Raise InvalidRequest where an option needs another one that is not given."""
    if (tls_cert is None) != (tls_key is None) or (tls_client_ca and not tls_cert):
        raise InvalidRequest(
            "tls_cert", "--tls-cert and --tls-key go together, and --tls-client-ca needs both", reason="UNSPECIFIED"
        )
    if explore and not outcomes:
        raise InvalidRequest(
            "explore", "--explore needs --outcomes, which records what to learn from", reason="UNSPECIFIED"
        )


def _http_address(http: str, *, encrypted: bool, insecure: bool) -> tuple[str, int]:
    """Return host and port of --http. Raises InvalidRequest, MissingDependency."""
    import router.service.http.door  # noqa: F401 - a missing package is found before models are loaded
    from router.service.auth import addresses

    address = addresses.read_address(http, "http")
    addresses.check_exposure(address[0], encrypted=encrypted, insecure=insecure)
    return address


def _check_names(names: "Sequence[str]", http: str | None) -> None:
    """Raise InvalidRequest where --http-name has no use, or is no name."""
    from router.service.auth import addresses

    if names and not http:
        raise InvalidRequest("http_name", "--http-name needs --http; give that an address", reason="UNSPECIFIED")
    for name in names:
        addresses.check_name(name, "http-name")


def with_pages(ui: bool | None, http: tuple[str, int] | None, *, share_port: bool) -> bool:
    """Tell whether to serve /ui. Raises InvalidRequest, MissingDependency."""
    from router.service.auth.addresses import is_loopback

    if ui and http is None:
        raise InvalidRequest("ui", "--ui needs --http; give that an address", reason="UNSPECIFIED")
    if ui and share_port:
        raise InvalidRequest(
            "ui", "--ui can't be with --share-port, since each server knows only its own logins", reason="UNSPECIFIED"
        )
    wanted = ui if ui is not None else http is not None and is_loopback(http[0]) and not share_port
    if wanted:
        import router.service.ui.routes  # noqa: F401 - a missing package is found before models are loaded
    return wanted


def token(
    name: Annotated[str, typer.Argument(help="Name of the caller, as in logs.")],
    *,
    admin: Annotated[bool, typer.Option("--admin", help="The caller may also change what is served.")] = False,
) -> None:
    """Make a bearer token. Prints the token on the first line, then an entry for the file of `serve --tokens`.

    The file holds only the token's SHA-256. To replace a token without an interruption, list the old and the new
    digest, sha256 = ["…", "…"], until all programs use the new token.
    """
    import json
    import secrets

    from router.service.auth.callers import digest_of

    made = secrets.token_urlsafe(32)
    print(f'{made}\n\n[{json.dumps(name, ensure_ascii=False)}]\nsha256 = "{digest_of(made).hex()}"')
    if admin:
        print("admin = true")


def _managed(
    solver: "Solver", root: Path, engines: "Callable[[Bundle], Engines]", where: "Deployment"
) -> "tuple[BundleManager, EngineWatch]":
    """Return the manager of the bundles in ``root``, and a watch on the active bundle's model servers."""
    from functools import partial

    from router.service.bundle_manager import BundleManager
    from router.service.engine_watch import EngineWatch

    watch = EngineWatch(_model_servers(where, solver.bundle))

    def follow(bundle: "Bundle") -> None:
        watch.follow(_model_servers(where, bundle))

    return BundleManager(solver, root, engines, where, fits=partial(_check_servers, where), activated=follow), watch


def _check_servers(where: "Deployment", bundle: "Bundle") -> None:
    """Raise InvalidRequest where the model servers lack something that the bundle needs."""
    if where.urls:
        from router.backends.fit import check_servers  # imported on use: models in this process need no client

        check_servers(bundle.setup, where)


def _model_servers(where: "Deployment", bundle: "Bundle") -> dict[str, dict[str, str]]:
    """Return the base URLs of the bundle's model servers, with the headers that each wants.

    Empty where the reference model is in this process.
    """
    servers: dict[str, dict[str, str]] = {}
    for name, spec in bundle.setup.models.items():
        if where.backend(name, spec) in ("in_process", "fake") and name == bundle.setup.reference:
            return {}
        key = where.key(name)
        headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **where.headers_of(name)}
        if name in where.urls:
            from router.backends.openai import base_url  # imported on use: it needs a client

            servers |= {base_url(url): headers for url in where.urls[name]}
    return servers


def _engines(where: "Deployment", tracer: "Tracer | None", bundle: "Bundle") -> "Engines":
    """Load the models that the bundle's policy may use and that are served. Raises InvalidRequest."""
    from router.backends.registry import backend_of, load_engines
    from router.service.tracing import traced
    from router.solving.features import features_of

    setup = bundle.setup
    backend = where.backend(setup.reference, setup.main)
    needs = features_of(bundle.manifest.features).needs
    if needs and needs not in backend_of(backend).capabilities:
        raise InvalidRequest(
            "backend",
            f"{bundle.folder} predicts levels from {bundle.manifest.features!r} features, which need the capability "
            f"{needs!r}; the backend {backend!r} lacks it. Serve it with --backend in_process, or train on text",
            reason="UNSPECIFIED",
        )
    # A model is loaded only where the policy may choose it, or where its server is given.
    asked = {model for arm in bundle.policy.arms for model in arm.models if model}
    served = {name for name in asked if where.backend(name, setup.models[name]) != "vllm" or where.urls.get(name)}
    engines = load_engines(
        setup,
        bundle.folder,
        where,
        models=frozenset({setup.reference} | served | (set(where.urls) & set(setup.models))),
        log_probs=bundle.confidence is not None and bundle.confidence.reads_log_probs,
    )
    return traced(engines, tracer) if tracer else engines
