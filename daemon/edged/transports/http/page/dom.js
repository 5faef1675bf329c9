// Elements made of text alone: nothing that comes from the box or its model is ever read as HTML.

export const find = (id) => document.getElementById(id);

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Rows of a <dl>, rewritten only where they changed, so that a screen reader is not sent back to the start.
export function facts(list, rows) {
  while (list.children.length > rows.length * 2) list.lastElementChild.remove();
  rows.forEach(([term, value], index) => {
    if (list.children.length <= index * 2) list.append(element("dt"), element("dd"));
    say(list.children[index * 2], term);
    say(list.children[index * 2 + 1], value);
  });
}

export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
