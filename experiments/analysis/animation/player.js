// Plays the traces of the page's JSON, a character a span. The clock counts passes of the network, so that of several
// traces the one that needs fewer ends first. The layout is that of the finished text, so that nothing moves.
(() => {
  "use strict";
  const root = document.currentScript.closest(".decoding-animation");
  const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const find = (name) => root.querySelector(`.da-${name}`);
  const [play, slider, speed, time] = ["play", "slider", "speed", "time"].map(find);
  const stride = Math.max(1, (data.last - data.first) / (data.frames - 1));  // of the clock, from frame to frame

  class Panel {
    constructor(record, element) {
      Object.assign(this, record, { element });
      this.counter = element.querySelector(".da-counter");
      this.bar = element.querySelector(".da-bar i");
      this.text = element.querySelector(".da-text");
      this.unfold();
      this.characters = this.vocabulary.map((token) => Array.from(token));
      this.open = this.given.filter((given) => !given).length;
      this.slots = [];
      const wide = new Set(this.wide);  // characters of two columns
      const last = this.tokens[this.tokens.length - 1];
      last.forEach((token, position) => {
        const characters = this.characters[token].length ? this.characters[token] : [""];
        characters.forEach((character, offset) => {
          const span = document.createElement("span");
          this.slots.push({ position, offset, character, columns: wide.has(character) ? 2 : 1, span, seen: "" });
        });
      });
      this.text.replaceChildren(...this.slots.map((slot) => slot.span));
    }

    // All states of tokens and levels, from the first one and the changes.
    unfold() {
      this.tokens = [this.first.tokens];
      this.levels = [this.first.levels];
      for (const changed of this.changes) {
        const tokens = this.tokens[this.tokens.length - 1].slice();
        const levels = this.levels[this.levels.length - 1].slice();
        for (const [position, token, level] of changed) {
          tokens[position] = token;
          levels[position] = level;
        }
        this.tokens.push(tokens);
        this.levels.push(levels);
      }
    }

    // Break lines at spaces, where the finished text does not fit.
    wrap() {
      const probe = document.createElement("span");
      probe.textContent = "0".repeat(50);
      this.text.append(probe);
      const columns = Math.floor((this.text.clientWidth / probe.getBoundingClientRect().width) * 50) - 1;
      probe.remove();
      const width = (slots) => slots.reduce((sum, slot) => sum + slot.columns, 0);
      let line = [];
      for (const slot of this.slots) {
        slot.wraps = false;
        const hangs = slot.character === " " || slot.character === "\n";
        if (line.length && width([...line, slot]) > columns + (hangs ? 1 : 0)) {
          const space = hangs ? -1 : line.findLastIndex((other) => other.character === " ");
          let cut = space < 0 ? line.length : space + 1;
          if (width([...line.slice(cut), slot]) > columns) cut = line.length;
          line[cut - 1].wraps = true;
          line = line.slice(cut);
        }
        line = slot.character === "\n" ? [] : [...line, slot];
      }
    }

    stateAt(clock) {
      let low = 0, high = this.clock.length - 1;
      while (low < high) {
        const middle = Math.ceil((low + high) / 2);
        if (this.clock[middle] <= clock) low = middle; else high = middle - 1;
      }
      return low;
    }

    render(clock) {
      const state = this.stateAt(clock), end = this.clock.length - 1;
      const before = state === end ? state : this.stateAt(Math.round(clock - stride));
      for (const slot of this.slots) this.draw(slot, state, before);
      this.count(state);
    }

    draw(slot, state, before) {
      const level = this.levels[state][slot.position];
      const name = this.kind(slot.position, level, this.levels[before][slot.position]);
      let text = this.characters[this.tokens[state][slot.position]][slot.offset] ?? (slot.offset ? " " : "");
      if (level === 1) text = data.hidden;
      const newline = text === "\n";
      if (newline && slot.character !== "\n") text = data.newline;
      if (!newline && slot.character === "\n") text += "\n";
      let look = `da-${name}`;
      if (name === "noise" && level > data.whiteFrom) look += " da-strong";
      if (newline && slot.character === "\n") look += " da-newline";
      if (slot.wraps) look += " da-wraps";
      const seen = `${look} ${level} ${text}`;
      if (seen === slot.seen) return;
      slot.seen = seen;
      slot.span.className = look;
      slot.span.textContent = text;
      slot.span.style.setProperty("--level", level);
    }

    kind(position, level, was) {
      if (this.given[position]) return "given";
      if (level === 0) return was > 0 ? "new" : "done";
      if (this.scale === "noise") return "noise";
      return level === 1 ? "masked" : "draft";
    }

    count(state) {
      const decided = this.levels[state].filter((level, position) => level === 0 && !this.given[position]).length;
      const end = this.clock[this.clock.length - 1];
      const passes = this.clock[state];
      let text = `${passes}/${end} forwards · ${decided}/${this.open} tokens`;
      const rate = Math.floor((100 * decided) / passes + 0.5) / 100;
      if (passes > 0) text += ` · ${rate.toFixed(2)} tokens/forward`;
      this.counter.textContent = text;
      this.bar.style.width = `${this.open ? (100 * decided) / this.open : 100}%`;
    }
  }

  const elements = root.querySelectorAll(".da-panel");
  const panels = data.records.map((record, index) => new Panel(record, elements[index]));
  let position = data.last, timer = null;

  const show = (clock) => {
    position = Math.min(Math.max(clock, data.first), data.last);
    const shown = Math.round(position);
    for (const panel of panels) panel.render(shown);
    slider.value = String(shown);
    time.textContent = `${shown} / ${data.last} forwards`;
  };
  const pause = () => {
    clearTimeout(timer);
    timer = null;
    play.textContent = "Play";
  };
  const tick = () => {
    show(position + stride);
    if (position >= data.last) pause(); else timer = setTimeout(tick, data.interval / Number(speed.value));
  };
  const start = () => {
    if (position >= data.last) show(data.first);
    play.textContent = "Pause";
    timer = setTimeout(tick, data.interval / Number(speed.value));
  };
  const toggle = () => (timer === null ? start() : pause());
  const step = (by) => { pause(); show(Math.round(position) + by); };
  const arrange = () => {
    for (const panel of panels) panel.wrap();
    show(position);
  };

  play.addEventListener("click", toggle);
  find("back").addEventListener("click", () => step(-1));
  find("forward").addEventListener("click", () => step(1));
  slider.addEventListener("input", () => { pause(); show(Number(slider.value)); });
  (data.page ? document : root).addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const own = event.target.tagName;  // of a control that has a meaning of its own for the key
    const keys = { ArrowRight: () => step(1), ArrowLeft: () => step(-1), Home: () => step(-Infinity), End: () => step(Infinity) };
    if (event.key === " " && own !== "BUTTON" && own !== "SELECT") toggle();
    else if (event.key in keys && own !== "SELECT") keys[event.key]();
    else return;
    event.preventDefault();
  });

  find("panels").classList.add("da-playable");
  find("controls").hidden = false;
  time.style.minWidth = `${2 * String(data.last).length + 12}ch`;  // so that the slider keeps its width
  new ResizeObserver(arrange).observe(find("panels"));
  arrange();
  if (data.page && !matchMedia("(prefers-reduced-motion: reduce)").matches) start();
})();
