// Show what is new each second; what is being typed stays.
setInterval(async () => {
  try {
    const said = await fetch("/", { cache: "no-store" });
    const fresh = new DOMParser().parseFromString(await said.text(), "text/html");
    for (const shown of document.querySelectorAll("[data-live]")) {
      const now = fresh.getElementById(shown.id);
      if (now && now.innerHTML !== shown.innerHTML) shown.innerHTML = now.innerHTML;
    }
    document.body.classList.remove("over");
  } catch {
    document.body.classList.add("over");
  }
}, 1000);
