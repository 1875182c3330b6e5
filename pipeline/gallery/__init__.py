"""One self-contained page of a run's images, with a slider for alpha whose labels are exact at every stop.

numbers      levels of the prediction sets at all stops, and the counts that follow from them
labeled_run  the stores of a run, and its thresholds at every stop
estimates    held-out coverage and precision at every stop
thresholds   maps and numbers of the thresholds
packing      arrays in a page
images       one image: its counts, and its data in the page
content      all data in the page
page         the HTML, with gallery.css and the scripts
"""

from pipeline.gallery.page import gallery_fragment, gallery_page

__all__ = ["gallery_fragment", "gallery_page"]
