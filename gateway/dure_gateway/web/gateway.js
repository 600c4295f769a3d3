// The gateway's /v1/jobs and /api/personas. Every call throws Problem, whose message and remedy are meant for people.

import { texts } from "./texts.js";

export class Problem extends Error {
  constructor([message, remedy], status = 0) {
    super(message);
    this.remedy = remedy;
    this.status = status;
  }
}

export const submit = (body, key) =>
  call("/v1/jobs", {
    method: "POST",
    headers: { "Content-Type": "application/json", "Idempotency-Key": key },
    body: JSON.stringify(body),
  });

export const cancel = (job) => call(job.links.self, { method: "DELETE" });

export const show = (job) => call(job.links.self);

export const personas = () => call("/api/personas");

// Calls on[name](data) for each event of the job. The browser reconnects by itself and tells where it was
// (Last-Event-ID); it gives up only when the gateway refuses, and then on.closed() is called.
export function follow(job, on) {
  const stream = new EventSource(job.links.events);
  for (const name of ["queued", "running", "start", "restarted", "token", "sentence", "final"]) {
    stream.addEventListener(name, (event) => on[name](JSON.parse(event.data)));
  }
  stream.onopen = () => on.connected(true);
  stream.onerror = () => (stream.readyState === EventSource.CLOSED ? on.closed() : on.connected(false));
  return stream;
}

// crypto.randomUUID is missing on plain http to another machine, which is how this page is often reached at home.
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40; // version 4
  bytes[8] = (bytes[8] & 0x3f) | 0x80; // variant 1
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

async function call(path, options) {
  const response = await fetch(path, options).catch(() => {
    throw new Problem(texts.unreachable);
  });
  const answer = await response.json().catch(() => ({}));
  if (response.ok && (answer.job_id || answer.styles)) return answer;
  const { message, remedy } = answer.error ?? {};
  throw new Problem(message ? [message, remedy ?? ""] : texts.unreadable, response.status);
}
