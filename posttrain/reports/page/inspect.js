"use strict";
const box = document.getElementById("search");
const found = document.getElementById("found");
const examples = Array.from(document.querySelectorAll("article.example"));
const fold = (text) => text.normalize("NFKC").toLowerCase();
const texts = examples.map((example) => fold(example.dataset.text));

function filterExamples() {
  const wanted = fold(box.value);
  let shown = 0;
  examples.forEach((example, i) => {
    example.hidden = !texts[i].includes(wanted);
    shown += example.hidden ? 0 : 1;
  });
  found.textContent = shown + " of " + examples.length + " examples";
}

box.addEventListener("input", filterExamples);
filterExamples();
