// The chat page: one question at a time, its answer followed until it ends.

import { Answer, failure, question } from "./answer.js";
import * as gateway from "./gateway.js";
import { language, texts, translatePage } from "./texts.js";

const find = (id) => document.getElementById(id);
const [message, send, cancel, log] = ["message", "send", "cancel", "log"].map(find);
const choices = [find("style"), find("personality")];

const NEAR_BOTTOM_PX = 80;

let conversationId; // the gateway gives one with the first answer
let current = null; // the newest turn: {body, key, answer, job, stream, isCancelled}
let isBusy = false;

function ask(text) {
  const [style, personality] = choices.map((choice) => choice.value);
  current?.answer.forbidRetry();
  const answer = new Answer();
  const body = { message: text, style, personality, conversation_id: conversationId };
  current = { body, answer, key: gateway.newKey() };
  find("welcome").hidden = true;
  log.append(question(text), answer.element);
  submit(current);
}

async function submit(turn) {
  begin(turn);
  try {
    turn.job = await gateway.submit(turn.body, turn.key);
  } catch (problem) {
    // With the same key a question that did arrive is not asked twice; a conflict can only be ended by a new one.
    fail(turn, problem, () => (problem.status === 409 ? askAgain(turn) : submit(turn)));
    return;
  }
  if (turn === current) conversationId = turn.job.conversation_id;
  if (turn.isCancelled) stop(turn);
  else if (turn.job.status === "queued") turn.answer.queued(turn.job.queue_position);
  if (turn === current) follow(turn);
}

function askAgain(turn) {
  turn.key = gateway.newKey();
  submit(turn);
}

function follow(turn) {
  const { answer } = turn;
  const unlessCancelled = (tell) => turn.isCancelled || tell();
  turn.stream = gateway.follow(turn.job, {
    queued: (data) => unlessCancelled(() => answer.queued(data.queue_position)),
    running: () => {},
    start: (data) => keepInView(() => answer.started(data.attempt)),
    restarted: (data) => keepInView(() => answer.started(data.attempt)),
    token: (data) => keepInView(() => answer.addDraft(data.text)),
    sentence: (data) => keepInView(() => answer.addSentence(data.text, data.replaces)),
    final: (data) => finish(turn, data),
    connected: (isConnected) => answer.connected(isConnected),
    closed: () => fail(turn, new gateway.Problem(texts.lost), () => followAgain(turn)),
  });
}

async function followAgain(turn) {
  begin(turn);
  try {
    turn.job = await gateway.show(turn.job);
  } catch (problem) {
    fail(turn, problem, () => (problem.status === 404 ? askAgain(turn) : followAgain(turn)));
    return;
  }
  if (turn === current) follow(turn);
}

function finish(turn, job) {
  turn.stream.close();
  keepInView(() => turn.answer.end(job));
  if (job.status === "failed") fail(turn, failure(job), () => askAgain(turn));
  else rest();
}

function fail(turn, problem, retry) {
  if (turn !== current) return;
  keepInView(() => turn.answer.fail(problem, retry));
  rest();
}

async function stop(turn) {
  turn.isCancelled = true;
  turn.answer.tell(texts.cancelling);
  // Without a job yet, submit() stops it as soon as there is one.
  if (!turn.job) return;
  await gateway.cancel(turn.job).catch(() => {
    turn.isCancelled = false;
    cancel.disabled = false;
    turn.answer.tell(texts.notCancelled);
  });
}

function startOver() {
  if (isBusy) {
    current.stream?.close();
    stop(current);
  }
  current = null;
  conversationId = undefined;
  log.replaceChildren();
  find("welcome").hidden = false;
  rest();
  focusMessage();
}

function begin(turn) {
  turn.job = turn.stream = null;
  turn.isCancelled = false;
  turn.answer.sending();
  turn.answer.element.scrollIntoView({ block: "end" });
  setBusy(true);
  focusMessage();
}

function rest() {
  // The button that had the focus is about to vanish, and the focus with it.
  const isFocusLost = document.activeElement === cancel || document.activeElement === document.body;
  setBusy(false);
  if (isFocusLost) focusMessage();
}

function focusMessage() {
  // On a touch screen the keyboard would jump up over the answer.
  if (matchMedia("(pointer: fine)").matches) message.focus();
}

function setBusy(value) {
  isBusy = value;
  send.hidden = value;
  cancel.hidden = !value;
  cancel.disabled = false;
}

// Follows the text downwards, unless the reader has scrolled up to read.
function keepInView(change) {
  const page = document.documentElement;
  const isAtBottom = page.scrollHeight - page.scrollTop - page.clientHeight < NEAR_BOTTOM_PX;
  change();
  if (isAtBottom) page.scrollTop = page.scrollHeight;
}

function sendTyped() {
  const text = message.value.trim();
  if (!text || isBusy) return;
  message.value = "";
  fitHeight();
  ask(text);
}

function fitHeight() {
  message.style.height = "auto";
  message.style.height = `${message.scrollHeight}px`;
}

function onKey(event) {
  // While a syllable is being composed, Enter belongs to the input method. Safari tells so by key code 229 alone.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  sendTyped();
}

function choose(choice, name) {
  if ([...choice.options].some((option) => option.value === name)) choice.value = name;
}

// Storage may be forbidden; then a choice lasts as long as the page.
function recall(choice) {
  try {
    choose(choice, localStorage.getItem(choice.id));
  } catch {}
}

function remember(choice) {
  recall(choice);
  choice.addEventListener("change", () => {
    try {
      localStorage.setItem(choice.id, choice.value);
    } catch {}
  });
}

// The options in index.html stand until the gateway has told its own.
async function offerPersonas() {
  const { styles, personalities } = await gateway.personas();
  offer(choices[0], styles);
  offer(choices[1], personalities);
}

function offer(choice, personas) {
  const chosen = choice.value;
  choice.replaceChildren(...personas.map(({ name, title }) => new Option(title[language], name)));
  choose(choice, chosen);
  recall(choice);
}

translatePage();
choices.forEach(remember);
offerPersonas().catch(() => {});
find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  sendTyped();
});
message.addEventListener("keydown", onKey);
message.addEventListener("input", fitHeight);
cancel.addEventListener("click", () => {
  cancel.disabled = true;
  stop(current);
});
find("new").addEventListener("click", startOver);
find("examples").addEventListener("click", (event) => {
  const example = event.target.closest("button");
  if (example && !isBusy) ask(example.textContent);
});
