// Boxes over a picture, as buttons; and the page's keys. Values go to Python as one trigger, "action".
const TYPES = ["INPUT", "TEXTAREA", "SELECT"];

function isTyping(event) {
  const target = event.composedPath()[0];
  const role = target.getAttribute ? target.getAttribute("role") : null;
  return TYPES.includes(target.tagName) || target.isContentEditable || ["slider", "combobox", "option"].includes(role);
}

function keyAction(event, data) {
  if (event.ctrlKey || event.altKey || event.metaKey || isTyping(event)) return null;
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step !== undefined) {
    if (event.shiftKey) return { kind: "image", value: step };
    const order = data.boxes.map((box) => box.index);
    if (order.length === 0) return null;
    const now = order.indexOf(data.selected);
    const next = now < 0 ? (step > 0 ? 0 : order.length - 1) : (now + step + order.length) % order.length;
    return { kind: "box", value: order[next] };
  }
  if (["1", "2", "3", "4"].includes(event.key)) return { kind: "method", value: Number(event.key) - 1 };
  return null;
}

function area(box) {
  return (box[2] - box[0]) * (box[3] - box[1]);
}

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const root = parentElement.querySelector(".boxes");
  const focused = root.getRootNode().activeElement?.dataset?.index;
  const picture = document.createElement("img");
  picture.src = data.picture;
  picture.alt = data.alt;
  const buttons = data.boxes.map((box) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.index = box.index;
    const left = (100 * box.box[0]) / data.width, top = (100 * box.box[1]) / data.height;
    button.style.left = `${left}%`;
    button.style.top = `${top}%`;
    button.style.width = `${(100 * (box.box[2] - box.box[0])) / data.width}%`;
    button.style.height = `${(100 * (box.box[3] - box.box[1])) / data.height}%`;
    // a box inside a larger one lies above it, so that both can be clicked
    button.style.zIndex = 1 + data.boxes.filter((other) => area(other.box) > area(box.box)).length;
    button.classList.toggle("top", top < 6);
    button.setAttribute("aria-pressed", String(box.index === data.selected));
    button.setAttribute("aria-label", box.label);
    const label = document.createElement("span");
    label.textContent = box.label;
    button.append(label);
    button.onclick = () => setTriggerValue("action", { kind: "box", value: box.index });
    return button;
  });
  root.replaceChildren(picture, ...buttons);
  if (focused !== undefined) root.querySelector(`button[data-index="${focused}"]`)?.focus();

  const onKey = (event) => {
    const action = keyAction(event, data);
    if (action === null) return;
    event.preventDefault();
    setTriggerValue("action", action);
  };
  if (root.onKey) document.removeEventListener("keydown", root.onKey);
  root.onKey = onKey;
  document.addEventListener("keydown", onKey);
  return () => document.removeEventListener("keydown", onKey);
}
