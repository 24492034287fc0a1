/* What the page does by itself: sends files, and hears the keyboard. */
(function () {
  "use strict";

  const trame = () => window.trame;

  function tell(role, share) {
    trame().state.set("uploading", share === null ? null : { role, share });
  }

  function refuse(role, sentence) {
    tell(role, null);
    trame().trigger("upload_failed", [sentence]);
  }

  function send(role, files, limit) {
    const form = new FormData();
    let size = 0;
    for (const file of files) {
      form.append("file", file, file.name);
      size += file.size;
    }
    if (size > limit) {
      refuse(role, `This is larger than the ${Math.floor(limit / 1048576)} MiB that this viewer accepts.`);
      return;
    }
    const request = new XMLHttpRequest();
    request.open("POST", `upload/${role}`);
    request.upload.onprogress = (event) => tell(role, event.loaded / Math.max(event.total, 1));
    request.onerror = () => refuse(role, "The upload was interrupted; try again.");
    request.onload = () => {
      tell(role, null);
      if (request.status === 200) {
        trame().trigger("uploaded", [role]);
      } else {
        let answer = {};
        try { answer = JSON.parse(request.responseText); } catch (error) { /* Not ours: the status says enough. */ }
        refuse(role, answer.error || `The upload was refused (${request.status}).`);
      }
    };
    tell(role, 0);
    request.send(form);
  }

  document.addEventListener("change", (event) => {
    const input = event.target;
    if (!input.matches || !input.matches("input[data-upload]") || !input.files.length) return;
    send(input.dataset.upload, input.files, Number(input.dataset.limit));
    input.value = "";
  });

  /* Before anything else hears them: a list that was just used would take the letters for itself. */
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const key = event.key.toLowerCase();
    const target = event.target.closest ? event.target : document.body;
    const list = target.closest(".v-select, .v-list, .v-slider, .v-btn-toggle");
    const typing = !list && target.matches("input, textarea");
    const ours = ["b", "c", "escape", "f", "n", "p"].includes(key) || (["arrowup", "arrowdown"].includes(key) && !list);
    if (typing || !ours) return;
    event.preventDefault();
    event.stopPropagation();
    trame().trigger("key", [key]);
  }, true);
})();
