// What the page says, in Korean and English. The Korean of fixed parts stands in index.html, so that the page reads
// well before any script runs.

const KOREAN = {
  queued: (ahead) => (ahead > 0 ? `앞에 ${ahead}명이 기다리고 있습니다.` : "다음 차례입니다. 잠시만 기다려 주세요."),
  accepted: "질문을 보내고 있습니다.",
  thinking: "답을 준비하고 있습니다.",
  restarted: "답변이 중간에 끊겨 다시 쓰고 있습니다.",
  reconnecting: "연결이 끊겨 다시 잇는 중입니다.",
  cancelling: "답변을 멈추고 있습니다.",
  notCancelled: "답변을 멈추지 못했습니다. 다시 눌러 주세요.",
  cancelled: "중지됨",
  cut: "길이 제한까지 답함",
  speed: (number) => `초당 ${number}토큰`,
  seconds: (number) => `${number}초`,
  retry: "다시 시도",
  you: "내 질문",
  dure: "두레의 답변",
  unreachable: ["서버에 연결할 수 없습니다.", "네트워크와 두레 게이트웨이가 켜져 있는지 확인한 뒤 다시 시도해 주세요."],
  lost: ["답변을 이어서 받지 못했습니다.", "잠시 뒤에 다시 시도해 주세요."],
  unreadable: ["서버의 응답을 읽을 수 없습니다.", "잠시 뒤에 다시 시도해 주세요."],
};

const ENGLISH = {
  queued: (ahead) => (ahead > 0 ? `${ahead} ahead of you in the queue.` : "You are next. One moment, please."),
  accepted: "Sending your question.",
  thinking: "Preparing an answer.",
  restarted: "The answer broke off and is being written again.",
  reconnecting: "Connection lost. Reconnecting.",
  cancelling: "Stopping the answer.",
  notCancelled: "The answer could not be stopped. Press again.",
  cancelled: "Stopped",
  cut: "Reached the length limit",
  speed: (number) => `${number} tokens/s`,
  seconds: (number) => `${number} s`,
  retry: "Try again",
  you: "Your question",
  dure: "Dure's answer",
  unreachable: ["The server cannot be reached.", "Check your network and that the gateway runs, then try again."],
  lost: ["The rest of the answer could not be received.", "Try again in a moment."],
  unreadable: ["The server's response cannot be read.", "Try again in a moment."],
  page: {
    newConversation: "New chat",
    greeting: "Hello! Ask anything; dure answers in Korean.",
    conversation: "Conversation",
    message: "Message",
    placeholder: "Ask anything",
    style: "Tone",
    polite: "Formal",
    casual: "Friendly",
    expert: "Expert",
    personality: "Manner",
    helpful: "Helpful",
    warm: "Warm",
    concise: "Concise",
    playful: "Playful",
    send: "Send",
    cancel: "Stop",
    keys: "Enter sends, Shift+Enter starts a new line.",
  },
};

const isKorean = /^ko\b/i.test(navigator.language);

export const language = isKorean ? "ko" : "en";
export const texts = isKorean ? KOREAN : ENGLISH;

export function translatePage() {
  if (isKorean) return;
  document.documentElement.lang = "en";
  const { page } = ENGLISH;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = page[element.dataset.text];
  for (const element of document.querySelectorAll("[data-label]")) element.ariaLabel = page[element.dataset.label];
  for (const element of document.querySelectorAll("[data-placeholder]")) {
    element.placeholder = page[element.dataset.placeholder];
  }
}
