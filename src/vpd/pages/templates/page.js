"use strict";
// Without this script the page shows everything; with it, answers slide over pictures and words show their maps.
for (const example of document.querySelectorAll(".example")) {
  const input = example.querySelector(".input");
  const picture = input.querySelector("img");
  const label = input.querySelector(".label");
  const own = { src: picture.src, alt: picture.alt, label: label.textContent };
  const slider = example.querySelector(".slider input");
  const frames = [...example.querySelectorAll(".over .frame")];

  for (const frame of frames) {
    const under = new Image();
    under.src = own.src;
    under.alt = "";
    under.className = "under";
    under.draggable = frame.lastElementChild.draggable = false;
    const edge = document.createElement("span");
    edge.className = "edge";
    frame.prepend(under);
    frame.append(edge);
    const follow = (event) => {
      const box = frame.getBoundingClientRect();
      slider.value = Math.round((100 * (event.clientX - box.left)) / box.width);
      slide();
    };
    frame.addEventListener("pointerdown", follow);
    frame.addEventListener("pointermove", (event) => event.buttons && follow(event));
  }
  function slide() {
    for (const frame of frames) {
      frame.style.setProperty("--shown", `${slider.value}%`);
      frame.lastElementChild.hidden = slider.value === "100" || slider.value === "0";
    }
    slider.setAttribute("aria-valuetext", `${slider.value} % covered`);
  }
  if (slider) {
    slider.addEventListener("input", slide);
    slide();
  }

  const maps = [...example.querySelectorAll(".map")];
  const show = (map) => {
    const image = map.querySelector("img");
    const isInput = map === maps[0];
    picture.src = isInput ? own.src : image.src;
    picture.alt = isInput ? own.alt : image.alt;
    label.textContent = isInput ? own.label : `“${map.querySelector(".label").textContent}”`;
  };
  const showChosen = () => show(maps.find((map) => map.querySelector("input").checked));
  for (const map of maps) {
    map.addEventListener("pointerenter", () => show(map));
    map.addEventListener("pointerleave", showChosen);
    map.querySelector("input").addEventListener("change", showChosen);
  }
  if (maps.length) {
    addEventListener("beforeprint", () => show(maps[0]));
    addEventListener("afterprint", showChosen);
  }
}
