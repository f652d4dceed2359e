from openclaw_orchestrator import Orchestrator, OrchestratorError, Partial, Policy

with Orchestrator("127.0.0.1:7070") as orchestrator:
    answer = orchestrator.route(["A", "B"], {"data": "task"}, timeout=5, policy=Policy(idempotent=True))
    print(answer.instance, answer.payload)

    for event in orchestrator.fanout("A-C", {"data": "task"}, timeout=5):
        if isinstance(event, Partial):
            print(event.instance, event.outcome)

    orchestrator.session_spawn("greeting")
    with orchestrator.session("greeting") as session:
        session.send("hello")
        print(session.receive(timeout=10).payload)
    orchestrator.session_close("greeting")

    try:
        orchestrator.route("nobody")
    except OrchestratorError as error:
        print(error.reason, error.retryable)
