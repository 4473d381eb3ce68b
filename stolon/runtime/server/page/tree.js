// The tree as blocks: right of a block stands what begins with it.
const ROW = 18;
const LEAST_WIDTH = 5;
let chosen = null;
let nodesById = new Map();

function renderTree(nodes) {
  nodesById = new Map(nodes.map((node) => [node.id, { ...node, children: [] }]));
  const tops = [];
  for (const node of nodesById.values()) (nodesById.get(node.parent)?.children ?? tops).push(node);
  const hidden = nodes.reduce((sum, node) => sum + node.hidden, 0);
  byId("tree-text").textContent = nodes.length
    ? `${grouped.format(nodes.length)} runs shown${hidden ? `, more below ${grouped.format(hidden)} of them` : ""}`
    : "nothing cached yet";
  const svg = byId("tree");
  const width = svg.clientWidth || 600;
  const longest = Math.max(1, ...nodes.map((node) => node.end));
  const deepest = depth(tops);
  const scale = Math.max(width - 2 - deepest * LEAST_WIDTH, 50) / longest;
  const shapes = [];
  let row = 0;
  for (const top of tops) row += place(top, 1, row, scale, shapes);
  const height = Math.max(row * ROW, ROW);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  svg.replaceChildren(...shapes);
  describe();
}

function depth(nodes) {
  let most = 0;
  for (let level = nodes; level.length; level = level.flatMap((node) => node.children)) most += 1;
  return most;
}

// Draws a node from row `row` on and what stands below it; returns how many rows that takes.
function place(node, x, row, scale, shapes) {
  const width = LEAST_WIDTH + node.tokens * scale;
  const at = shapes.length;
  let rows = 0;
  for (const child of node.children) rows += place(child, x + width, row + rows, scale, shapes);
  rows = Math.max(rows, 1);
  shapes.splice(at, 0, ...block(node, x, row * ROW, width, rows * ROW));
  return rows;
}

function block(node, x, y, width, height) {
  const heat = 1 / (1 + Math.log2(1 + node.idle / 4));
  const rect = shape("rect", { x, y, width, height, rx: 3, "data-id": node.id });
  rect.style.fill = `color-mix(in srgb, var(--hot) ${Math.round(100 * heat)}%, var(--cold))`;
  rect.classList.toggle("locked", node.locks > 0);
  rect.classList.toggle("chosen", node.id === chosen);
  const shapes = [rect];
  if (node.pins > 0) shapes.push(shape("circle", { cx: x + width - 6, cy: y + 6, r: 3 }));
  const room = Math.floor((width - 10) / 6.7);
  const words = node.text === null ? grouped.format(node.tokens) : node.text.replace(/\s+/g, " ");
  if (room >= 3 && words) {
    const label = shape("text", { x: x + 5, y: y + height / 2 + 4 });
    label.textContent = words.length > room ? `${words.slice(0, room - 1)}…` : words;
    shapes.push(label);
  }
  return shapes;
}

const counted = (count, noun) => `${grouped.format(count)} ${noun}${count === 1 ? "" : "s"}`;

function describe() {
  const node = nodesById.get(chosen);
  if (!node) return;
  const parts = [
    `${counted(node.tokens, "token")}, up to position ${grouped.format(node.end)}`,
    node.locks ? `in use ${node.locks} ×` : "not in use",
    node.pins ? `pinned ${node.pins} ×` : "not pinned",
    node.idle ? `${counted(node.idle, "use")} of the tree ago` : "used last of all",
    counted(node.children.length + node.hidden, "continuation"),
  ];
  byId("tree-node").textContent = parts.join(" · ") + (node.text === null ? "" : ` · “${node.text}”`);
}

byId("tree").addEventListener("click", (event) => {
  const id = event.target.dataset?.id;
  if (id === undefined) return;
  chosen = Number(id);
  for (const rect of byId("tree").querySelectorAll("rect")) rect.classList.toggle("chosen", rect.dataset.id === id);
  describe();
});
