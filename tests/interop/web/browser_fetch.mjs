// fetch as a page in a browser has it: what the Fetch standard says about other origins is done here, since Node, which
// is no browser, does not do it. Preflights are sent, and what the server does not allow or expose does not pass.

const PLAIN_METHODS = ["GET", "HEAD", "POST"];
const PLAIN_HEADERS = ["accept", "accept-language", "content-language"];
const PLAIN_TYPES = ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];
const READABLE = ["cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma"];

/** What a server has listed in a header. */
function listed(headers, name) {
  const value = headers.get(name) ?? "";
  return value.split(",").map((word) => word.trim().toLowerCase());
}

/** Whether a page may read this answer. */
function isShared(headers, origin) {
  return ["*", origin].includes(headers.get("access-control-allow-origin"));
}

/** The headers that a page may not send without asking. */
function unusual(headers) {
  const names = [];
  for (const [name, value] of headers) {
    const type = value.split(";")[0].trim().toLowerCase();
    const isPlainType = name === "content-type" && PLAIN_TYPES.includes(type);
    if (!PLAIN_HEADERS.includes(name) && !isPlainType) names.push(name);
  }
  return names.sort();
}

// A page of the same name replaces it.
const fetch = globalThis.fetch;

async function ask(request, origin) {
  const names = unusual(request.headers);
  if (PLAIN_METHODS.includes(request.method) && names.length === 0) return;
  const asked = await fetch(request.url, {
    method: "OPTIONS",
    headers: {
      origin,
      "access-control-request-method": request.method,
      "access-control-request-headers": names.join(","),
    },
  });
  if (!asked.ok || !isShared(asked.headers, origin)) {
    throw new TypeError(`preflight refused with ${asked.status}`);
  }
  const methods = listed(asked.headers, "access-control-allow-methods");
  if (!PLAIN_METHODS.includes(request.method) && !methods.includes(request.method.toLowerCase())) {
    throw new TypeError(`${request.method} is not allowed`);
  }
  const allowed = listed(asked.headers, "access-control-allow-headers");
  for (const name of names) {
    if (!allowed.includes(name)) throw new TypeError(`header ${name} is not allowed`);
  }
}

/** The fetch of a page that comes from `origin`. */
export function fetchOf(origin) {
  return async (input, init) => {
    const request = new Request(input, { ...init, duplex: "half" });
    await ask(request, origin);
    request.headers.set("origin", origin);
    const answer = await fetch(request);
    if (!isShared(answer.headers, origin)) throw new TypeError("the answer is not for this page");
    const exposed = listed(answer.headers, "access-control-expose-headers");
    const headers = [...answer.headers].filter(([name]) => READABLE.includes(name) || exposed.includes(name));
    return new Response(answer.body, { status: answer.status, headers });
  };
}
