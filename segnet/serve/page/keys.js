// Keys that work everywhere on the page. Those that need a position in the image belong to the viewer.

const TYPED = new Set(["text", "number", "date", "search", ""]);

/** True where the user types: keys are text there. */
function typing(element) {
  if (element.isContentEditable || element.tagName === "TEXTAREA" || element.tagName === "SELECT") return true;
  return element.tagName === "INPUT" && TYPED.has(element.type);
}

/** `commands` by key; `undo` for Ctrl Z. A dialog that is open takes all keys. */
export function listen(commands) {
  addEventListener("keydown", event => {
    if (event.defaultPrevented || document.querySelector("dialog[open]") || typing(event.target)) return;
    const command = (event.ctrlKey || event.metaKey) && !event.altKey
      ? event.key.toLowerCase() === "z" && !event.shiftKey && commands.undo
      : !event.altKey && commands[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!command) return;
    event.preventDefault();
    command();
  });
}
