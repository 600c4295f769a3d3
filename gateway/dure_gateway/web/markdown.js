// The little Markdown that models write: code blocks, code and bold. Built from text nodes: nothing becomes HTML.

const BLOCK = /```[^\n]*\n([\s\S]*?)\n?```[ \t]*\n?/g;
const SPAN = /`([^`\n]+)`|\*\*([^*\n]+)\*\*/g;

export const hasMarkdown = (text) => text.search(BLOCK) >= 0 || text.search(SPAN) >= 0;

export function format(text) {
  return pieces(text, BLOCK, ([, code]) => [element("code", code, "block")], spans);
}

function spans(text) {
  return pieces(text, SPAN, ([, code, bold]) => [code ? element("code", code) : element("strong", bold)], (plain) => [plain]);
}

// What lies between the matches goes through `between`, each match through `matched`; both give nodes or strings.
function pieces(text, pattern, matched, between) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    nodes.push(...between(text.slice(end, match.index)), ...matched(match));
    end = match.index + match[0].length;
  }
  return [...nodes, ...between(text.slice(end))];
}

function element(tag, text, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}
