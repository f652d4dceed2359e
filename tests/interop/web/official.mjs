// Calls by the gRPC project's own client for browsers, in a page of jsdom, whose XMLHttpRequest asks before it sends and
// hides what is not exposed. What comes of each is one line of JSON.

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import grpcWeb from "grpc-web";
import { JSDOM } from "jsdom";

import {
  FanoutRequestSchema,
  FanoutResponseSchema,
  RouteRequestSchema,
  RouteResponseSchema,
} from "./gen/openclaw/orchestrator/v1/orchestrator_pb.js";

const [url, origin, key, format] = process.argv.slice(2);

const page = new JSDOM("", { url: origin });
// What a refused page is told goes to its console.
page.virtualConsole.removeAllListeners();
globalThis.XMLHttpRequest = page.window.XMLHttpRequest;

const service = "/openclaw.orchestrator.v1.OrchestratorService";
const client = new grpcWeb.GrpcWebClientBase({ format });
const metadata = key ? { authorization: `Bearer ${key}` } : {};
const tell = (name, said) => console.log(JSON.stringify({ name, ...said }));

function method(name, type, request, response) {
  const write = (message) => toBinary(request, message);
  const read = (bytes) => fromBinary(response, bytes);
  return new grpcWeb.MethodDescriptor(`${service}/${name}`, type, Object, Object, write, read);
}

const route = method("Route", grpcWeb.MethodType.UNARY, RouteRequestSchema, RouteResponseSchema);
const fanout = method("Fanout", grpcWeb.MethodType.SERVER_STREAMING, FanoutRequestSchema, FanoutResponseSchema);

async function unary(name, instances) {
  const request = create(RouteRequestSchema, { instances });
  try {
    const answer = await client.unaryCall(`${url}${service}/Route`, request, metadata, route);
    tell(name, { instance: answer.instance });
  } catch (error) {
    const details = Object.keys(error.metadata ?? {}).filter((header) => header.startsWith("grpc-status-details"));
    tell(name, { code: error.code, message: error.message, details });
  }
}

function stream(name, targets) {
  const request = create(FanoutRequestSchema, { targets });
  const cases = [];
  return new Promise((resolve) => {
    const end = (said) => resolve(tell(name, { cases, ...said }));
    const answer = client.serverStreaming(`${url}${service}/Fanout`, request, metadata, fanout);
    answer.on("data", ({ event }) => cases.push(event.case));
    answer.on("error", (error) => end({ code: error.code, message: error.message }));
    answer.on("end", () => end({}));
  });
}

await unary("route", ["A"]);
// Its makers offer streams in text only.
if (format === "text") await stream("fanout", ["A-H"]);
await unary("unknown", ["Z"]);
page.window.close();
