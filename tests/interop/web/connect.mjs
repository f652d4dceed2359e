// Calls by Connect's client for browsers. What comes of each is one line of JSON.

import { fromJson } from "@bufbuild/protobuf";
import { ValueSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";

import { fetchOf } from "./browser_fetch.mjs";
import { OrchestratorService } from "./gen/openclaw/orchestrator/v1/orchestrator_pb.js";

const [baseUrl, origin, key] = process.argv.slice(2);

const transport = createGrpcWebTransport({
  baseUrl,
  fetch: fetchOf(origin),
  interceptors: [
    (next) => (request) => {
      if (key) request.header.set("authorization", `Bearer ${key}`);
      return next(request);
    },
  ],
});
const orchestrator = createClient(OrchestratorService, transport);
const tell = (name, said) => console.log(JSON.stringify({ name, ...said }));

async function call(name, doing) {
  try {
    tell(name, await doing());
  } catch (thrown) {
    const error = ConnectError.from(thrown);
    const details = error.details.map((detail) => detail.type);
    tell(name, { code: Code[error.code], message: error.rawMessage, details });
  }
}

const payload = fromJson(ValueSchema, { data: "é".repeat(50_000) });

await call("route", async () => {
  let id;
  const onHeader = (headers) => (id = headers.get("x-request-id"));
  const answer = await orchestrator.route({ instances: ["A"], payload }, { onHeader });
  const length = answer.payload.kind.value.fields.data.kind.value.length;
  return { instance: answer.instance, length, hasId: Boolean(id) };
});
await call("fanout", async () => {
  const cases = [];
  for await (const { event } of orchestrator.fanout({ targets: ["A-H"], payload })) cases.push(event.case);
  return { cases };
});
await call("unknown", () => orchestrator.route({ instances: ["Z"] }));
await call("late", () => orchestrator.route({ instances: ["slow"] }, { timeoutMs: 300 }));
await call("watch", async () => {
  // A page that is closed in the middle of a stream.
  const closed = new AbortController();
  for await (const told of orchestrator.healthWatch({}, { signal: closed.signal })) {
    closed.abort();
    return { told: Object.keys(told).length };
  }
  return { told: 0 };
});
