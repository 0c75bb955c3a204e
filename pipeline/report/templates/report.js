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

  // One image, large.
  let current = null;

  function show(card) {
    current = card;
    const copy = (selector) => [...card.querySelectorAll(selector)].map((img) => img.cloneNode());
    byId("large-whole").replaceChildren(...copy(".open .picture img"));
    byId("large-window").replaceChildren(...copy(".window img"));
    byId("large-whole").firstElementChild.alt = `${card.dataset.name}, whole`;
    byId("large-window").firstElementChild.alt = `${card.dataset.name}, worst region`;
    const place = `${shown().indexOf(card) + 1} of ${shown().length}`;
    byId("large-title").textContent = `${card.dataset.name}: Dice ${Number(card.dataset.dice).toFixed(5)}`;
    byId("large-note").textContent = `${place}: ${card.querySelector(".caption .note").textContent}`;
  }

  function step(by) {
    const some = shown();
    show(some[(some.indexOf(current) + by + some.length) % some.length]);
  }

  list.addEventListener("click", (event) => {
    const button = event.target.closest(".open");
    if (!button) return;
    show(button.closest(".card"));
    dialog.showModal();
    byId("close").focus();
  });
  byId("close").addEventListener("click", () => dialog.close());
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  dialog.addEventListener("click", (event) => {
    const button = event.target.closest("[data-mode-button]");
    if (button) setMode(button.dataset.modeButton);
    else if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => current?.querySelector(".open").focus());
  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const button = dialog.querySelectorAll("[data-mode-button]")[Number(event.key) - 1];
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else if (button) setMode(button.dataset.modeButton);
    else return;
    event.preventDefault();
  });
  update();
})();
