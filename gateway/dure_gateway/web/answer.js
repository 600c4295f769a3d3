// One answer on the page. Text goes in as text nodes only: nothing that a model or a person wrote is read as HTML.

import { Problem } from "./gateway.js";
import { format, hasMarkdown } from "./markdown.js";
import { texts } from "./texts.js";

export class Answer {
  #fixed = make("span", "fixed"); // edited sentences; new ones are appended, so that screen readers say each once
  #draft = make("span", "draft");
  #note = make("p", "note");
  #actions = make("div", "actions");
  #state = ""; // what the note says while the connection holds

  constructor() {
    this.element = make("article");
    this.element.dataset.role = "assistant";
    this.element.ariaLabel = texts.dure;
    this.#draft.ariaHidden = "true"; // a token at a time is no way to be read to
    const text = make("p", "text");
    text.lang = "ko";
    text.append(this.#fixed, this.#draft);
    this.element.append(text, this.#note, this.#actions);
  }

  sending() {
    this.#clear();
    this.#actions.replaceChildren();
    this.#become("queued", texts.accepted);
  }

  queued(position) {
    this.#become("queued", texts.queued(position));
  }

  started(attempt) {
    this.#clear();
    this.#become("running", attempt > 1 ? texts.restarted : texts.thinking);
  }

  addDraft(text) {
    this.#draft.textContent = tidy(this.#draft.textContent + text);
    this.#writing();
  }

  // The sentence takes the place of so many code points at the draft's beginning; of none where it comes from an
  // attempt before this one.
  addSentence(text, replaces) {
    this.#draft.textContent = [...this.#draft.textContent].slice(replaces).join("");
    this.#fixed.append(text);
    this.#writing();
  }

  connected(isConnected) {
    this.#say(isConnected ? this.#state : texts.reconnecting);
  }

  tell(note) {
    this.#become(this.element.dataset.status, note);
  }

  end(job) {
    this.#settle(job.reply || this.#fixed.textContent + this.#draft.textContent);
    this.#become(job.status, summary(job));
  }

  fail(problem, retry) {
    this.#draft.textContent = "";
    this.#become("failed", problem.message);
    const remedy = make("p", "remedy");
    remedy.textContent = problem.remedy;
    const button = make("button", "retry");
    button.type = "button";
    button.textContent = texts.retry;
    button.addEventListener("click", retry);
    this.#actions.replaceChildren(remedy, button);
  }

  // Only for the newest answer: an older one's place in the conversation has passed.
  forbidRetry() {
    this.#actions.querySelector("button")?.remove();
  }

  #settle(reply) {
    const shown = this.#fixed.textContent;
    this.#draft.textContent = "";
    if (reply.startsWith(shown)) this.#fixed.append(reply.slice(shown.length));
    else this.#fixed.textContent = reply;
    // Only the whole answer: half a code block cannot be told from text.
    if (hasMarkdown(reply)) this.#fixed.replaceChildren(...format(reply));
  }

  #writing() {
    if (this.#state === texts.thinking) this.#become("running", "");
  }

  #become(status, note) {
    this.element.dataset.status = status;
    this.#state = note;
    this.#say(note);
  }

  #say(note) {
    // Writing the same again would make screen readers say it again, once a second.
    if (this.#note.textContent !== note) this.#note.textContent = note;
  }

  #clear() {
    this.#fixed.textContent = "";
    this.#draft.textContent = "";
  }
}

export function question(text) {
  const element = make("article");
  element.dataset.role = "user";
  element.ariaLabel = texts.you;
  const body = make("p", "text");
  body.textContent = text;
  element.append(body);
  return element;
}

export function failure(job) {
  return new Problem([job.error.message, job.error.remedy]);
}

function summary(job) {
  const { tokens_per_s: speed, total_s: seconds } = job.timings ?? {};
  const parts = [
    job.status === "cancelled" && texts.cancelled,
    job.finish_reason === "length" && texts.cut,
    speed && texts.speed(rounded(speed)),
    seconds && texts.seconds(rounded(seconds)),
  ];
  return parts.filter(Boolean).join(" · ");
}

const rounded = (number) => number.toLocaleString(undefined, { maximumFractionDigits: 1 });

// As the worker counts what a sentence replaces.
const tidy = (text) => text.replaceAll("\ufffd", "").normalize("NFC");

function make(name, className = "") {
  const element = document.createElement(name);
  if (className) element.className = className;
  return element;
}
