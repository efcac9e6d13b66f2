"""The script that Streamlit runs for every visitor, from top to bottom after every click."""

from __future__ import annotations


def show_page() -> None:
    """The page as it is now."""
    from contextlib import nullcontext

    import streamlit as st

    from detxai.app.warm_up import has_imported, wait_until_imported

    st.set_page_config(page_title="detxai: why is this box there?", layout="wide")
    with nullcontext() if has_imported() else st.spinner("Starting: PyTorch is being loaded …"):
        wait_until_imported()

    from detxai.app.session import Session
    from detxai.app.views import address, data_set, detector, explain, what_if
    from detxai.app.views.sidebar import apply_pending, sidebar

    @st.cache_resource(scope="session", on_release=Session.close, show_spinner=False)
    def visitor() -> Session:
        return Session.open()

    session = visitor()
    apply_pending()
    pages = {
        "Explain": explain.show, "What if": what_if.show, "Data set": data_set.show, "Detector": detector.show,
    }  # fmt: skip
    names = list(pages)
    address.restore("page", names, names[0])
    with st.sidebar:
        chosen = sidebar(session)
    page = st.segmented_control("Page", names, key="page", required=True, label_visibility="collapsed")
    address.save("page", page, names[0])
    pages[page or names[0]](session, chosen)


if __name__ == "__main__":
    show_page()
