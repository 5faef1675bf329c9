// Talks to the box that served this page, with the key that this tab was given.

const KEY = "edged-key";

export class KeyNeeded extends Error {}

export class Refused extends Error {}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

export function rememberKey(key) {
  sessionStorage.setItem(KEY, key);
}

// The response of `path`. Throws KeyNeeded, Refused with the box's own words, or TypeError without a connection.
export async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { accept: "application/json", ...options.headers };
  if (key !== null) headers.authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  if (response.status === 401) {
    sessionStorage.removeItem(KEY);
    throw new KeyNeeded(key === null ? "" : "The box does not know this key.");
  }
  if (!response.ok) throw new Refused(await reason(response));
  return response;
}

export const tell = async (path) => (await ask(path)).json();

async function reason(response) {
  try {
    const { error } = await response.json();
    const later = error.retry_after_s ? ` Try again in ${Math.ceil(error.retry_after_s)} s.` : "";
    return `${error.message}.${later}`;
  } catch {
    return `The box answered with status ${response.status}.`;
  }
}

// The data of each event of a stream, as it comes.
export async function* events(response) {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const portion of chunks(response.body)) {
    rest += decoder.decode(portion, { stream: true });
    const whole = rest.split("\n\n");
    rest = whole.pop();
    for (const event of whole) {
      const data = event.split("\n").filter((line) => line.startsWith("data: "));
      if (data.length) yield data.map((line) => line.slice(6)).join("\n");
    }
  }
}

// Not every browser's ReadableStream is iterable.
async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.releaseLock();
  }
}
