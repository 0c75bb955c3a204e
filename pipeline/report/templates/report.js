"use strict";
(() => {
  const root = document.documentElement;
  root.classList.remove("no-js");
  const byId = (id) => document.getElementById(id);

  // Theme: the system's, or the reader's own choice.
  const themes = ["system", "light", "dark"];
  let theme = 0;
  byId("theme").addEventListener("click", () => {
    theme = (theme + 1) % themes.length;
    if (theme) root.dataset.theme = themes[theme];
    else delete root.dataset.theme;
    byId("theme").textContent = `Theme: ${themes[theme]}`;
  });

  // Gallery: sort, filter, and which layer lies over the photographs.
  const gallery = byId("pictures");
  const dialog = byId("large");
  const controls = byId("controls");
  const list = byId("cards");
  const cards = [...list.children];

  function compare(key) {
    if (key === "name") return (a, b) => a.dataset.name.localeCompare(b.dataset.name);
    const sign = key.startsWith("-") ? -1 : 1;
    const name = key.replace("-", "");
    return (a, b) => sign * (Number(a.dataset[name]) - Number(b.dataset[name]));
  }

  function fits(card) {
    const text = controls.elements.text.value.trim().toLowerCase();
    const same = ["fold", "view", "kind"].every((name) => {
      const wanted = controls.elements[name]?.value;
      return !wanted || card.dataset[name] === wanted;
    });
    return same && card.dataset.name.toLowerCase().includes(text);
  }

  function update() {
    list.append(...cards.sort(compare(controls.elements.sort.value)));
    for (const card of cards) card.hidden = !fits(card);
    const count = shown().length;
    byId("count").textContent = `${count} image${count === 1 ? "" : "s"}`;
    byId("none").hidden = count > 0;
  }

  const shown = () => cards.filter((card) => !card.hidden);

  function setMode(mode) {
    gallery.dataset.mode = mode;
    dialog.dataset.mode = mode;
    controls.elements.mode.value = mode;
    for (const button of dialog.querySelectorAll("[data-mode-button]")) {
      button.setAttribute("aria-pressed", String(button.dataset.modeButton === mode));
    }
  }

  controls.addEventListener("input", (event) => {
    if (event.target.name === "mode") setMode(event.target.value);
    else update();
  });
  controls.addEventListener("submit", (event) => event.preventDefault());
  byId("reset").addEventListener("click", () => {
    const mode = gallery.dataset.mode;
    controls.reset();
    setMode(mode);
    update();
    controls.elements.sort.focus();
  });

  // One image, large: those of the gallery with layers, test images as they are.
  let current = null;
  const panes = [byId("large-whole"), byId("large-window")];

  const around = () =>
    current.closest("#cards") ? shown() : [...current.closest("ul").children].filter((one) => one.querySelector(".open"));

  function show(card) {
    current = card;
    const hidden = card.querySelector("template");
    const layers = [...card.querySelectorAll(".open .layer")];
    const [photograph, ...window] = hidden ? [...hidden.content.children] : [card.querySelector(".open img")];
    fill(panes[0], [photograph, ...layers], `${card.dataset.name}, whole`);
    fill(panes[1], window, `${card.dataset.name}, worst region`);
    panes[1].parentElement.hidden = !window.length;
    for (const group of dialog.querySelectorAll("[aria-label=Show]")) group.hidden = !layers.length;
    const place = `${around().indexOf(card) + 1} of ${around().length}`;
    const note = card.querySelector(".caption .note, .reasons");
    const dice = card.dataset.dice ? `: Dice ${Number(card.dataset.dice).toFixed(5)}` : "";
    byId("large-title").textContent = card.dataset.name + dice;
    byId("large-note").textContent = note ? `${place}: ${note.textContent.trim()}` : place;
  }

  function fill(pane, images, name) {
    const content = document.createElement("div");
    content.append(...images.map((image) => image.cloneNode()));
    if (content.firstElementChild) content.firstElementChild.alt = name;
    pane.replaceChildren(content);
    zoom(pane, 0);
  }

  function open(card) {
    show(card);
    if (!dialog.open) dialog.showModal();
    byId("close").focus();
  }

  function step(by) {
    const some = around();
    show(some[(some.indexOf(current) + by + some.length) % some.length]);
  }

  // Zoom and pan: a pane keeps its scale and where its content lies, in pixels of the screen.
  const MOST = 16;

  function move(pane, scale, x, y) {
    const { clientWidth: width, clientHeight: height } = pane;
    const inside = (value, size) => Math.min(0, Math.max(size * (1 - scale), value));
    pane.view = { scale, x: inside(x, width), y: inside(y, height) };
    const content = pane.firstElementChild;
    if (content) content.style.transform = `translate(${pane.view.x}px, ${pane.view.y}px) scale(${scale})`;
    pane.classList.toggle("far", scale > 1);
  }

  // `by` times as large, about a point of the pane; 0 fits the whole picture in again.
  function zoom(pane, by, at = { x: pane.clientWidth / 2, y: pane.clientHeight / 2 }) {
    if (!by || !pane.view) return move(pane, 1, 0, 0);
    const { scale, x, y } = pane.view;
    const larger = Math.min(MOST, Math.max(1, scale * by));
    move(pane, larger, at.x - ((at.x - x) * larger) / scale, at.y - ((at.y - y) * larger) / scale);
  }

  const zoomAll = (by) => panes.forEach((pane) => zoom(pane, by));

  for (const pane of panes) {
    const fingers = new Map();
    const point = (event) => {
      const box = pane.getBoundingClientRect();
      return { x: event.clientX - box.left, y: event.clientY - box.top };
    };
    const apart = () => {
      const [a, b] = [...fingers.values()];
      return { distance: Math.hypot(a.x - b.x, a.y - b.y), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
    };
    pane.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoom(pane, Math.exp(-event.deltaY / 300), point(event));
    }, { passive: false });
    pane.addEventListener("dblclick", (event) => zoom(pane, pane.view.scale > 1 ? 0 : 4, point(event)));
    pane.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      pane.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, point(event));
    });
    pane.addEventListener("pointermove", (event) => {
      if (!fingers.has(event.pointerId)) return;
      const before = fingers.size === 2 ? apart() : fingers.get(event.pointerId);
      fingers.set(event.pointerId, point(event));
      const now = fingers.size === 2 ? apart() : point(event);
      if (fingers.size === 2 && before.distance) zoom(pane, now.distance / before.distance, now);
      move(pane, pane.view.scale, pane.view.x + now.x - before.x, pane.view.y + now.y - before.y);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      pane.addEventListener(name, (event) => fingers.delete(event.pointerId));
    }
  }
  byId("zoom-in").addEventListener("click", () => zoomAll(1.5));
  byId("zoom-out").addEventListener("click", () => zoomAll(1 / 1.5));
  byId("zoom-reset").addEventListener("click", () => zoomAll(0));

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".card .open");
    const link = event.target.closest("a[href^='#image-']");
    if (button) open(button.closest(".card"));
    if (!link) return;
    // The card may be hidden by a filter.
    byId("reset").click();
    open(byId(link.getAttribute("href").slice(1)));
    event.preventDefault();
  });
  const isBeside = ({clientX, clientY}) => {  // its own padding is no way out
    const box = dialog.getBoundingClientRect();
    return clientX < box.left || clientX > box.right || clientY < box.top || clientY > box.bottom;
  };
  byId("close").addEventListener("click", () => dialog.close());
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  dialog.addEventListener("click", (event) => {
    const button = event.target.closest("[data-mode-button]");
    if (button) setMode(button.dataset.modeButton);
    else if (event.target === dialog && isBeside(event)) dialog.close();
  });
  dialog.addEventListener("close", () => current?.querySelector(".open").focus());
  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const button = dialog.querySelectorAll("[data-mode-button]")[Number(event.key) - 1];
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else if (event.key === "+" || event.key === "=") zoomAll(1.5);
    else if (event.key === "-") zoomAll(1 / 1.5);
    else if (event.key === "0") zoomAll(0);
    else if (button) setMode(button.dataset.modeButton);
    else return;
    event.preventDefault();
  });

  // Tables wider than the screen say so.
  function hint() {
    for (const one of document.querySelectorAll(".scroll")) {
      one.classList.toggle("more", one.scrollWidth > one.clientWidth + 1);
    }
  }
  addEventListener("resize", hint);
  hint();
  update();
})();
