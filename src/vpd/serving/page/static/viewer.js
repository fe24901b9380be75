// <vpd-viewer src="page/results/NAME">: a prediction over its picture, with opacity, legend, read-out and downloads.
(() => {
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name in element && typeof value !== "string") element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };
  const percent = (share) => (share >= 0.01 ? `${Math.round(100 * share)} %` : share > 0 ? "<1 %" : "0 %");
  let numbers = 0;

  class Viewer extends HTMLElement {
    connectedCallback() {
      if (this.started) return;
      this.started = true;
      this.open().catch((error) => this.replaceChildren(make("p", { role: "alert", class: "vpd-error" }, error.message)));
    }

    async fetched(part = "") {
      const response = await fetch(`${this.getAttribute("src")}${part}`);
      if (response.ok) return response;
      const told = await response.json().catch(() => ({}));
      throw new Error(told.detail || `The result could not be loaded (${response.status}).`);
    }

    async open() {
      this.view = await (await this.fetched()).json();
      const buffer = await (await this.fetched("/values")).arrayBuffer();
      this.values = this.view.bytes_each === 2 ? new Uint16Array(buffer) : new Uint8Array(buffer);
      this.number = ++numbers;
      this.hidden_labels = new Set();
      this.word = null;
      const { width, height } = this.view;
      this.canvas = make("canvas", { width, height });
      this.cross = make("div", { class: "vpd-cross", hidden: true });
      const picture = make("img", { src: `${this.getAttribute("src")}/base.jpg`, alt: "" });
      this.stage = make(
        "div",
        { class: "vpd-stage", tabIndex: 0, role: "group", "aria-describedby": `vpd-readout-${this.number}` },
        picture, this.canvas, this.cross,
      );
      this.stage.setAttribute("aria-label", `${this.summary()} Arrow keys move the read-out, Shift in larger steps.`);
      this.stage.style.aspectRatio = `${width} / ${height}`;
      this.stage.style.maxWidth = `min(100%, ${(58 * width) / height}vh)`;
      this.readout = make("output", { class: "vpd-readout", id: `vpd-readout-${this.number}`, "aria-live": "polite" },
        "Point at the picture, or move over it with the arrow keys.");
      this.replaceChildren(
        make("p", { class: "vpd-summary" }, this.summary()),
        this.stage, this.readout, this.controls(), this.downloads(),
        ...this.view.notes.map((note) => make("p", { class: "vpd-note" }, note)),
      );
      this.follow();
      this.draw();
      if (this.getBoundingClientRect().top > window.innerHeight / 2) {  // below the form, as on a phone
        const is_calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
        this.scrollIntoView({ block: "start", behavior: is_calm ? "auto" : "smooth" });
      }
    }

    summary() {
      const view = this.view;
      if (view.kind === "classes") {
        const found = view.classes.slice(0, 4).map((one) => `${one.name} ${percent(one.share)}`).join(", ");
        return `${view.classes.length} class${view.classes.length === 1 ? "" : "es"} found: ${found}.`;
      }
      if (view.kind === "mask") {
        const found = view.share > 0 ? `${percent(view.share)} of the picture` : "nothing found";
        const word = view.presence_is_calibrated ? "probability that it is there" : "presence score (not calibrated)";
        const presence = view.presence == null ? "" : `; ${word} ${view.presence.toFixed(2)}`;
        return `“${view.text}”: ${found}${presence}.`;
      }
      return `Depth from ${view.near_m.toFixed(2)} to ${view.far_m.toFixed(2)} m (all but 1 % on either side).`;
    }

    controls() {
      const id = `vpd-opacity-${this.number}`;
      this.opacity = make("input", { type: "range", min: "0", max: "100", id, value: this.view.kind === "depth" ? "85" : "60" });
      this.opacity.addEventListener("input", () => this.draw());
      const rows = [make("div", { class: "vpd-row" }, make("label", { for: id }, "Opacity"), this.opacity)];
      if (this.view.kind === "classes") rows.push(this.legend());
      if (this.view.words.length) rows.push(this.word_buttons());
      if (this.view.kind === "depth") rows.push(...this.depth_controls());
      return make("div", { class: "vpd-controls" }, ...rows);
    }

    legend() {
      const list = make("ul", { class: "vpd-legend", "aria-label": "Classes; a click hides or shows one" });
      for (const found of this.view.classes) {
        const swatch = make("span", { class: "vpd-swatch" });
        swatch.style.background = `rgb(${found.colour.join(",")})`;
        const button = make("button", { type: "button", "aria-pressed": "true" }, swatch, `${found.name} ${percent(found.share)}`);
        button.addEventListener("click", () => {
          const is_hidden = !this.hidden_labels.delete(found.label) && !!this.hidden_labels.add(found.label);
          button.setAttribute("aria-pressed", String(!is_hidden));
          this.draw();
        });
        list.append(make("li", {}, button));
      }
      return list;
    }

    word_buttons() {
      const group = make("div", { class: "vpd-legend", role: "group", "aria-label": "Mask, or attention to a word" });
      const choose = (button, number) => {
        group.querySelectorAll("button").forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
        this.show_word(number);
      };
      const labels = ["mask", ...this.view.words.map((one) => one.word)];
      labels.forEach((label, place) => {
        const button = make("button", { type: "button", "aria-pressed": String(place === 0) }, label);
        button.addEventListener("click", () => choose(button, place - 1));
        group.append(button);
      });
      return make("div", {}, make("p", { class: "vpd-hint" }, "Where the model looks for each word:"), group);
    }

    async show_word(number) {
      this.word = null;
      if (number >= 0) {
        const { width, height, word } = this.view.words[number];
        const shares = new Uint8Array(await (await this.fetched(`/word-${number}`)).arrayBuffer());
        this.word = { width, height, shares, word };
      }
      this.draw();
    }

    depth_controls() {
      const view = this.view;
      const field = (label, name, value, extra) => {
        const id = `vpd-${name}-${this.number}`;
        const input = make("input", { type: "number", id, value: String(value), step: "0.1", min: "0", ...extra });
        return [input, make("span", { class: "vpd-field" }, make("label", { for: id }, label), input)];
      };
      const [near, near_field] = field("Near limit, m", "near", view.near_m);
      const [far, far_field] = field("Far limit, m", "far", view.far_m);
      const [fov, fov_field] = field("Field of view, °", "fov", 65, { min: "1", max: "170", step: "1" });
      [this.near, this.far] = [near, far];
      const bar = make("canvas", { width: 256, height: 1, class: "vpd-scale", role: "img", "aria-label": "Colours from near to far" });
      const pixels = new ImageData(256, 1);
      view.colours.forEach((colour, place) => pixels.data.set([...colour, 255], 4 * place));
      bar.getContext("2d").putImageData(pixels, 0, 0);
      const ends = make("div", { class: "vpd-ends" }, make("span", {}), make("span", {}));
      const points = make("a", { class: "vpd-link", download: "points.ply" }, "Point cloud (.ply)");
      this.changed = () => {
        const limits = this.limits();
        ends.children[0].textContent = `${limits[0].toFixed(2)} m`;
        ends.children[1].textContent = `${limits[1].toFixed(2)} m`;
        // the colours leave out 1 % on either side; points do so only where somebody asks for it
        const chosen = (input, own, open) => (input.value && Number(input.value) !== own ? input.value : open);
        const query = new URLSearchParams({
          fov_deg: fov.value || "65", near_m: chosen(near, view.near_m, "0"), far_m: chosen(far, view.far_m, "1e9"),
        });
        points.href = `${this.getAttribute("src")}/points.ply?${query}`;
        const is_own = limits[0] === view.near_m && limits[1] === view.far_m;
        const colours = is_own ? "" : `?${new URLSearchParams({ near_m: limits[0], far_m: limits[1] })}`;
        this.overlay.href = `${this.getAttribute("src")}/file/overlay${colours}`;
        this.draw();
      };
      const reset = make("button", { type: "button", class: "vpd-link" }, "Reset limits");
      reset.addEventListener("click", () => { near.value = view.near_m; far.value = view.far_m; this.changed(); });
      for (const input of [near, far, fov]) input.addEventListener("input", this.changed);
      this.pending = this.changed;
      return [
        make("div", {}, bar, ends),
        make("div", { class: "vpd-row" }, near_field, far_field, reset),
        make("div", { class: "vpd-row" }, fov_field, points),
      ];
    }

    limits() {
      const near = Number.parseFloat(this.near.value), far = Number.parseFloat(this.far.value);
      const low = Number.isFinite(near) ? Math.max(0, near) : this.view.near_m;
      return [low, Math.max(Number.isFinite(far) ? far : this.view.far_m, low + 0.01)];
    }

    downloads() {
      const source = this.getAttribute("src");
      const link = (href, label) => make("a", { class: "vpd-link", href: `${source}/${href}`, download: "" }, label);
      const what = { classes: "Labels", mask: "Mask", depth: "Depth, 16 bits" }[this.view.kind];
      this.overlay = link("file/overlay", "Picture (.jpg)");
      const array = { classes: "Labels", mask: "Probability", depth: "Metres" }[this.view.kind];
      return make(
        "div", { class: "vpd-row vpd-downloads" },
        link("file/png", `${what} (.png)`), link("file/npy", `${array} (.npy)`),
        link("answer.json", "Facts (.json)"), this.overlay,
      );
    }

    colour_of(value) {
      // red, green, blue and whether anything is drawn
      const view = this.view;
      if (view.kind === "mask") return value >= 128 ? view.colour : null;
      if (view.kind === "classes") {
        this.colours ??= new Map(view.classes.map((one) => [one.label, one.colour]));
        return this.hidden_labels.has(value) ? null : this.colours.get(value) ?? [128, 128, 128];
      }
      if (!value) return [128, 128, 128];
      const [near, far] = this.drawn_limits;
      const share = (value * view.metres_per_step - near) / (far - near);
      return view.colours[Math.round(255 * Math.min(1, Math.max(0, share)))];
    }

    draw() {
      if (!this.canvas) return;
      const alpha = Math.round(2.55 * Number(this.opacity.value));
      const { width, height, shares } = this.word ?? this.view;
      if (this.view.kind === "depth") this.drawn_limits = this.limits();
      [this.canvas.width, this.canvas.height] = [width, height];
      const pixels = new ImageData(width, height), table = new Map(), source = shares ?? this.values;
      for (let place = 0; place < source.length; place++) {
        const value = source[place];
        if (shares) { pixels.data[4 * place + 3] = (alpha * (255 - value)) / 255; continue; }
        if (!table.has(value)) table.set(value, this.colour_of(value));
        const colour = table.get(value);
        if (colour) pixels.data.set([colour[0], colour[1], colour[2], alpha], 4 * place);
        else if (this.view.kind === "mask") pixels.data[4 * place + 3] = alpha / 2;
      }
      this.canvas.getContext("2d").putImageData(pixels, 0, 0);
      this.canvas.classList.toggle("vpd-smooth", !!shares);
      if (this.pending) { const pending = this.pending; this.pending = null; pending(); }
    }

    follow() {
      const { width, height } = this.view;
      const at = (x, y) => {
        this.x = Math.min(width - 1, Math.max(0, Math.floor(x)));
        this.y = Math.min(height - 1, Math.max(0, Math.floor(y)));
        this.cross.hidden = false;
        this.cross.style.left = `${(100 * (this.x + 0.5)) / width}%`;
        this.cross.style.top = `${(100 * (this.y + 0.5)) / height}%`;
        this.tell();
      };
      this.stage.addEventListener("pointermove", (event) => {
        const box = this.stage.getBoundingClientRect();
        at(((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height);
      });
      this.stage.addEventListener("keydown", (event) => {
        const step = (event.shiftKey ? 20 : 4) * Math.max(1, width / 400);
        const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
        const move = moves[event.key];
        if (!move) return;
        event.preventDefault();
        at((this.x ?? width / 2) + move[0], (this.y ?? height / 2) + move[1]);
      });
    }

    tell() {
      const view = this.view, value = this.values[this.y * view.width + this.x];
      const column = Math.floor(((this.x + 0.5) * view.full[0]) / view.width);
      const row = Math.floor(((this.y + 0.5) * view.full[1]) / view.height);
      let told;
      if (view.kind === "classes") told = view.classes.find((one) => one.label === value)?.name ?? "no class";
      else if (view.kind === "mask") told = `${value >= 128 ? "inside" : "outside"}, probability ${((value & 127) / 100).toFixed(2)}`;
      else told = value ? `${(value * view.metres_per_step).toFixed(2)} m` : "unknown";
      this.readout.textContent = `${told} at (${column}, ${row})`;
    }
  }
  if (!customElements.get("vpd-viewer")) customElements.define("vpd-viewer", Viewer);
})();
