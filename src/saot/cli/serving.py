"""`saot serve`: a finished run that an annotation tool asks for predictions."""

from pathlib import Path

from saot.cli.shell import Json, Whole, app, print_json, say


@app.command
def serve(
    run: Path,
    /,
    *,
    host: str = "127.0.0.1",
    port: Whole = 9090,
    folder: Path = Path(),
    device: str = "auto",
    json: Json = False,
) -> None:
    """Answers Label Studio, which asks the run for predictions as its ML backend. Ctrl-C ends it.

    Example: `saot serve runs/mine --folder new`, then add http://127.0.0.1:9090 under "Model" in the project's settings

    Args:
        run: Folder of a finished run.
        host: Where to listen; this machine alone unless given. Whoever can reach another address can ask, without a
            password.
        port: Where to listen; 0 takes one that is free.
        folder: Of the pictures, the current one unless given. Nothing outside it is read, and nothing is fetched.
        device: As in `saot run`.
    """
    from saot.annotate import RunServer, is_loopback, version_of
    from saot.label import open_run
    from saot.runs import resolve_device
    from saot.tables import ALL_WINGS

    opened = open_run(run, ALL_WINGS, resolve_device(device))
    with RunServer(opened, folder, host, port, version_of(run)) as server:
        if not is_loopback(host):
            say(f"whoever can reach {server.address} can ask for masks of the pictures below {folder}: no password")
        if json:
            print_json({"address": server.address, "model_version": server.version})
        else:
            print(f"listening at {server.address}; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("stopped")
